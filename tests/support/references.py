"""Twins of the hand-written networks in other libraries, and numbers that show a difference.

For the parity tests, and for benchmarks/parity.py, which writes down how large the differences are.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from fieldmark.data.preprocess import MAX_ASPECT
from fieldmark.models.layouts import Foreign
from fieldmark.types import Preprocess

LAST_NORM = re.compile(r"layer\d\.\d+\.bn[23]\.weight$")  # in a residual block of ResNet
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def random_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep a signal alive through the deepest network, and norms that do something."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():  # batches seen by a norm
            state[key] = torch.tensor(7)
            continue
        drawn = torch.empty(value.shape).uniform_(-1, 1, generator=generator)
        if value.ndim > 1:
            drawn.mul_((6 / value[0].numel()) ** 0.5)
        elif key.endswith(("running_var", "weight")):
            drawn.mul_(0.2).add_(1)
            if LAST_NORM.search(key):  # or each of fifty blocks would double the signal
                drawn.mul_(0.25)
        else:
            drawn.mul_(0.1)
        state[key] = drawn
    return state


def built_by_torchvision(foreign: Foreign, num_classes: int = 1000) -> nn.Module:
    """torchvision's network with the weights, every one in its place; in evaluation mode."""
    import torchvision

    words = dict(foreign.arguments)
    if "block" in words:
        words["block"] = getattr(torchvision.models.resnet, words["block"])
    with torch.device("meta"):
        model = getattr(torchvision.models, foreign.name)(num_classes=num_classes, **words)
    model.load_state_dict(foreign.tensors, strict=True, assign=True)
    return model.eval()  # type: ignore[no-any-return]


def built_by_timm(foreign: Foreign, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """The same for timm."""
    import timm

    words = {"num_classes": num_classes, "in_chans": in_channels, **foreign.arguments}
    with torch.device("meta"):
        model = timm.create_model(foreign.name, **words)
    model.load_state_dict(foreign.tensors, strict=True, assign=True)
    return model.eval()


def python_of(readme: Path) -> str:
    """The one block of Python in an exported folder's README."""
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """The hardest picture: neighbours have nothing in common."""
    shape = (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def torchvision_pixels(picture: Image.Image, p: Preprocess) -> np.ndarray:
    """What torchvision's evaluation transforms make of a picture, (size, size, 3) uint8."""
    resize = v2.Resize(round(p.size / p.crop_fraction), interpolation=MODES[p.interpolation])
    return np.asarray(v2.CenterCrop(p.size)(resize(picture)))


def timm_pixels(picture: Image.Image, p: Preprocess, crop_pct: float) -> np.ndarray:
    """The same of timm's; `crop_pct` is timm's word for the part that is kept."""
    from timm.data import create_transform

    transform = create_transform(
        (3, p.size, p.size),
        interpolation=p.interpolation,
        crop_pct=crop_pct,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    pixels_chw: torch.Tensor = transform(picture) * 255
    return pixels_chw.round().to(torch.uint8).permute(1, 2, 0).numpy()


def is_resized_whole(width: int, height: int, p: Preprocess) -> bool:
    """Whether Fieldmark resizes such a picture before it cuts; very long ones it cuts first."""
    longer = max(width, height) / min(width, height)
    return round(p.size / p.crop_fraction) * longer <= MAX_ASPECT * p.size


def opened(path: str | Path) -> Image.Image:
    """A photograph as people see it."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
