"""Every network written out here, with real numbers; what shapes alone can show is in
`test_network_contract`.

One network is alive at a time, and has been through one training step. The hidden dense layers of
AlexNet and VGG are 32 wide: their 100 million weights would take most of the time and show nothing
that 32 do not (`test_model_registry` holds the true counts).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from fieldmark.checkpoint import ModelInfo, load_model, save_model
from fieldmark.models import alexnet, vgg
from fieldmark.models.contract import Network
from fieldmark.models.registry import MODEL_NAMES, create_model
from fieldmark.types import Preprocess

CLASSES = ("ant", "bee", "wasp", "fly", "moth")
SIZE_PX = 64
DENSE_WIDTH = 32

# What torch.export does depends on the layers there are and how they are joined, not on how many
# follow one another. These differ from another network in depth or in a number, and would take
# half of the time.
TWINS = {
    *("vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet34", "resnet101", "resnet152", "resnet50_keras"),
}
EXPORTED = [name for name in MODEL_NAMES if name not in TWINS]


@dataclass
class Walked:
    """A network in evaluation mode, and how long each gradient of its one step of training was."""

    model: nn.Module
    gradient_norms: dict[str, float]

    @property
    def network(self) -> Network:
        assert isinstance(self.model, Network)
        return self.model

    def logits(self, images_bchw: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(images_bchw)


@pytest.fixture(scope="module", autouse=True)
def narrow_dense_layers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "DENSE_WIDTH", DENSE_WIDTH)
        for name, variant in alexnet.VARIANTS.items():
            narrow = dataclasses.replace(variant, dense_width=DENSE_WIDTH)
            patch.setitem(alexnet.VARIANTS, name, narrow)
        yield


@pytest.fixture(scope="module", params=MODEL_NAMES)
def walked(request: pytest.FixtureRequest) -> Walked:
    torch.manual_seed(0)
    model = create_model(request.param, num_classes=len(CLASSES)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The norms then know half of what this one batch is like: figures of their own, and
            # signals that neither die nor explode in 152 layers.
            module.momentum = 0.5
    y_true = torch.tensor([0, 1, 2, 3])
    nn.functional.cross_entropy(model(images(4)), y_true).backward()
    gradient_norms = {
        name: parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()  # the memory of 60 million numbers
    return Walked(model.eval(), gradient_norms)


def images(
    count: int, *, channels: int = 3, height: int = SIZE_PX, width: int = SIZE_PX
) -> torch.Tensor:
    """Pictures that differ by colour and brightness, not by noise alone."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, channels, height, width, generator=generator)
    return noise + 2 * torch.randn(count, channels, 1, 1, generator=generator)


def test_every_weight_learns_from_one_step(walked: Walked) -> None:
    norms = walked.gradient_norms
    assert norms.keys() == dict(walked.model.named_parameters()).keys()
    # A batch norm after a convolution takes every constant away again: the bias, if there is one,
    # learns nothing but rounding errors.
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in walked.model.modules())
    idle = {
        f"{name}.bias"
        for name, module in walked.model.named_modules()
        if has_norm and isinstance(module, nn.Conv2d)
    }
    for name, norm in norms.items():
        assert math.isfinite(norm), name  # one value that is not finite would show
        if name in idle:
            assert norm < 1e-4 * norms[name.removesuffix("bias") + "weight"], name
        else:
            assert norm > 1e-6, name


def test_it_sees_in_grey_and_in_colour_at_three_sizes(walked: Walked) -> None:
    """A grey network whose kernels are the sums over the colours sees what the other one sees.

    The smallest picture, an odd and oblong one, and a usual one. Stated tolerance: 1e-4 of the
    largest logit (5e-6 measured).
    """
    (first_conv,) = walked.network.first_convs
    state = dict(walked.model.state_dict())
    state[f"{first_conv}.weight"] = state[f"{first_conv}.weight"].sum(dim=1, keepdim=True)
    with torch.device("meta"):
        grey = create_model(walked.network.name, len(CLASSES), in_channels=1).eval()
    grey.load_state_dict(state, assign=True)

    smallest_px = walked.network.min_size_px
    odd_px = max(smallest_px, 32) | 1
    for height, width, count in (
        (smallest_px, smallest_px, 2),
        (odd_px, odd_px + 6, 2),
        (128, 128, 1),
    ):
        pictures = images(count, channels=1, height=height, width=width)
        in_colour = walked.logits(pictures.expand(-1, 3, -1, -1))
        assert in_colour.shape == (count, len(CLASSES))
        with torch.no_grad():
            in_grey = grey(pictures)
        scale = in_colour.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(in_grey, in_colour, rtol=0, atol=1e-4 * scale)


def test_running_the_stages_in_order_is_the_network(walked: Walked) -> None:
    pictures = images(2, height=70)
    logits = walked.logits(pictures)
    x = pictures
    with torch.no_grad():
        for modules in walked.network.stage_modules().values():
            for module in modules:
                x = module(x)
        features = walked.network.forward_features(pictures)
        assert torch.equal(walked.network.forward_head(features), logits)
    assert torch.equal(x, logits)


def test_channels_last_gives_the_same_answer(walked: Walked) -> None:
    """Stated tolerance: 1e-3 of the spread (2e-5 measured): the sums are in another order."""
    pictures = images(3)
    expected = walked.logits(pictures)
    layout = torch.channels_last
    model = copy.deepcopy(walked.model).to(memory_format=layout)
    with torch.no_grad():
        logits = model(pictures.contiguous(memory_format=layout))
    # How far the logits of different pictures lie apart.
    spread = (expected - expected.mean(dim=0)).abs().max().item()
    assert spread > 0
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3 * spread)


def test_a_model_file_gives_the_same_network_to_the_bit(walked: Walked, tmp_path: Path) -> None:
    preprocess = Preprocess(SIZE_PX, 3, (0.5,) * 3, (0.25,) * 3)
    info = ModelInfo(walked.network.architecture, CLASSES, preprocess)
    save_model(tmp_path / "model.safetensors", walked.model, info)
    again, info_again = load_model(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()  # 240 MB; pytest keeps the folders of three runs
    assert info_again == info
    before, after = walked.model.state_dict(), again.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert after[key].dtype == value.dtype, key
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("walked", EXPORTED, indirect=True)
def test_an_exported_program_takes_batches_of_any_size(walked: Walked) -> None:
    """`torch.export`, without TorchScript. Stated tolerance: torch's own for float32."""
    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    with torch.no_grad():
        program = torch.export.export(walked.model, (images(2),), dynamic_shapes=(free,))
        for count in (1, 3):
            logits = program.module()(images(count))
            torch.testing.assert_close(logits, walked.logits(images(count)))
