"""How an exported folder is opened and fed: code that runs as it stands, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import nn

from fieldmark.models.contract import as_network
from fieldmark.models.layouts import Foreign
from fieldmark.types import Preprocess

CLASS_NAMES_FILE: Final = "class_names.json"
LEFT_TO_YOU: Final = """\
Two things the code above leaves to you, because few pictures need them: it lays nothing over white,
and it decodes large JPEGs whole, where Fieldmark decodes them at a half, a quarter or an eighth of
their size, with at least twice the pixels that are needed left. Probabilities may differ slightly
there."""


def timm_code(preprocess: Preprocess) -> str:
    """Python that opens the folder it is started in, and classifies `picture.jpg`."""
    return f"""\
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

{_open_picture(preprocess)}
with torch.inference_mode():
    probabilities = model(transform(picture)[None]).softmax(dim=1)[0]
for name, probability in zip(model.pretrained_cfg["label_names"], probabilities.tolist()):
    print(f"{{probability:.1%}}  {{name}}")
"""


def torchvision_code(
    foreign: Foreign, model: nn.Module, preprocess: Preprocess, num_classes: int
) -> str:
    """As `timm_code`, for torchvision.

    Args:
        model: the network as Fieldmark has it, to copy the first convolution's settings from.
    """
    squash, size = preprocess.resize == "squash", preprocess.size
    resize = f"Resize({(size, size)}" if squash else f"Resize({resize_px(preprocess)}"
    crop = "" if squash else f"\n        transforms.CenterCrop({size}),"
    return f"""\
import json
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision import transforms

{_build_line(foreign, num_classes)}
{_first_conv_line(model)}\
model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
model.eval()

transform = transforms.Compose(
    [
        transforms.{resize}, transforms.InterpolationMode.{preprocess.interpolation.upper()}),{crop}
        transforms.ToTensor(),
        transforms.Normalize(mean={list(preprocess.mean)}, std={list(preprocess.std)}),
    ]
)
{_open_picture(preprocess)}
with torch.inference_mode():
    probabilities = model(transform(picture)[None]).softmax(dim=1)[0]
class_names = json.loads(Path("{CLASS_NAMES_FILE}").read_text(encoding="utf-8"))
for name, probability in zip(class_names, probabilities.tolist()):
    print(f"{{probability:.1%}}  {{name}}")
"""


def preprocessing_text(preprocess: Preprocess) -> str:
    """The way from a picture to the network's input, as a Markdown list.

    `preprocess` is the one of the model; a network that was given BGR leaves taking RGB
    (`layouts.take_rgb`), and the text says so.
    """
    size = preprocess.size
    colours = "RGB" if preprocess.channels == 3 else "grey, one channel"
    if preprocess.resize == "squash":
        resize = f"Squashed into {size} x {size} px, whatever its proportions"
    else:
        resize = (
            f"Resized so that its short side has {resize_px(preprocess)} px; of that, "
            f"the {size} x {size} px in the middle"
        )
    lines = [
        "The picture turned upright as its EXIF data say; what is transparent laid over white; "
        f"{colours}.",
        f"{resize} ({preprocess.interpolation}, antialiased).",
        "Divided by 255, so that white is 1.",
        f"Minus the mean {_numbers(preprocess.mean)}, divided by the standard deviation "
        f"{_numbers(preprocess.std)}, channel by channel.",
    ]
    if preprocess.channel_order == "bgr":
        lines.append(
            "Colours stay in the order RGB. The network was trained on BGR; for this export its "
            "first convolution was turned round, which gives the same answers."
        )
    return "\n".join(f"- {line}" for line in lines) + f"\n\n{LEFT_TO_YOU}"


def resize_px(preprocess: Preprocess) -> int:
    """The short side, px, to which pictures are resized before the centre is cut out of them."""
    return round(preprocess.size / preprocess.crop_fraction)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _open_picture(preprocess: Preprocess) -> str:
    mode = "RGB" if preprocess.channels == 3 else "L"
    return f'picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("{mode}")'


def _build_line(foreign: Foreign, num_classes: int) -> str:
    words = dict(foreign.arguments)
    block = words.pop("block", None)
    first = f"torchvision.models.resnet.{block}, " if block else ""
    rest = "".join(f", {word}={value!r}" for word, value in words.items())
    return f"model = torchvision.models.{foreign.name}({first}num_classes={num_classes}{rest})"


def _first_conv_line(model: nn.Module) -> str:
    """torchvision's builders make networks for three channels, whatever they are told."""
    network = as_network(model)
    if network.in_channels == 3:
        return ""
    (layer,) = network.first_convs
    conv = model.get_submodule(layer)
    assert isinstance(conv, nn.Conv2d)
    parent, _, index = layer.rpartition(".")
    place = f"{parent}[{index}]" if index.isdecimal() else layer
    words: dict[str, Any] = {
        "kernel_size": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": conv.padding[0],
        "bias": conv.bias is not None,
    }
    given = ", ".join(f"{word}={value}" for word, value in words.items())
    return f"model.{place} = torch.nn.Conv2d({conv.in_channels}, {conv.out_channels}, {given})\n"
