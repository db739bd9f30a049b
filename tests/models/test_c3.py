"""C3 written out a second time with functions, counted by hand, and held to ResNet's sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fieldmark.models.c3 import C3
from fieldmark.models.registry import create_model
from fieldmark.models.resnet import BasicBlock, Bottleneck

NAMES = ["c3resnet18", "c3resnet50"]
STAGES = ("layer1", "layer2", "layer3", "layer4")


def meta_model(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name).eval()


# What a C3 computes -------------------------------------------------------------------------------


def conv_norm(x: Tensor, state: dict[str, Tensor], conv: str, norm: str, padding: int) -> Tensor:
    """Convolution without stride or bias, then a batch norm in evaluation, in plain arithmetic."""
    x = F.conv2d(x, state[f"{conv}.weight"], padding=padding)
    mean, var, weight, bias = (
        state[f"{norm}.{word}"].view(-1, 1, 1)
        for word in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def residual(x: Tensor, state: dict[str, Tensor], kernels: tuple[int, ...]) -> Tensor:
    out = x
    for number, kernel in enumerate(kernels, start=1):
        out = conv_norm(out, state, f"conv{number}", f"bn{number}", kernel // 2)
        out = out.relu() if number < len(kernels) else out
    return (out + x).relu()


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("block", "kernels", "num_blocks"),
    [(BasicBlock, (3, 3), 2), (Bottleneck, (1, 3, 1), 1), (Bottleneck, (1, 3, 1), 3)],
)
def test_a_c3_is_two_halves_one_through_the_blocks_concatenated_and_mixed(
    block: type[BasicBlock] | type[Bottleneck], kernels: tuple[int, ...], num_blocks: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    module = C3(16, block, num_blocks).double().eval()
    for key, value in module.state_dict().items():  # norms that do something
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0.2, 0.4, generator=generator)
    state = module.state_dict()
    x = torch.randn(2, 16, 5, 7, generator=generator, dtype=torch.float64)

    through = conv_norm(x, state, "through.conv", "through.bn", 0).relu()
    assert through.shape == (2, 8, 5, 7)  # half of the channels
    for number in range(num_blocks):
        through = residual(through, below(state, f"blocks.{number}."), kernels)
    past = conv_norm(x, state, "past.conv", "past.bn", 0).relu()
    both = torch.cat([through, past], dim=1)
    expected = conv_norm(both, state, "mix.conv", "mix.bn", 0).relu()

    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    assert (expected > 0).double().mean() > 0.1  # the comparison is about something


def test_a_stage_halves_the_map_by_the_mean_of_four_px_then_widens() -> None:
    model = create_model("c3resnet18", num_classes=2).eval()
    x = torch.rand(1, 64, 5, 6)
    stage = model.layer2
    # The border of an odd map is the mean of the px there are.
    pooled = torch.stack(
        [
            torch.stack([x[0, :, i : i + 2, j : j + 2].mean(dim=(1, 2)) for j in (0, 2, 4)], dim=-1)
            for i in (0, 2, 4)
        ],
        dim=-2,
    )[None]
    assert pooled.shape == (1, 64, 3, 3)
    widened = conv_norm(pooled, stage.state_dict(), "widen.conv", "widen.bn", 0).relu()
    with torch.no_grad():
        torch.testing.assert_close(stage(x), stage.c3(widened))


# What it is made of -------------------------------------------------------------------------------


def count_by_hand(widths: tuple[int, ...], num_blocks: tuple[int, ...], bottleneck: bool) -> int:
    """Weights and norms, from the words of the documentation alone, with 3 channels, 1000 classes.

    A convolution from a to b channels has a b k^2 weights, and the norm after it 2 b.
    """

    def conv(a: int, b: int, kernel: int = 1) -> int:
        return a * b * kernel**2 + 2 * b

    total, channels = conv(3, 64, 7), 64
    for width, n in zip(widths, num_blocks, strict=True):
        half, narrow = width // 2, width // 8
        if bottleneck:
            block = conv(half, narrow) + conv(narrow, narrow, 3) + conv(narrow, half)
        else:
            block = 2 * conv(half, half, 3)
        total += conv(channels, width) + 2 * conv(width, half) + n * block + conv(width, width)
        channels = width
    return total + channels * 1000 + 1000


@pytest.mark.parametrize(
    ("name", "widths", "num_blocks", "expected"),
    [
        ("c3resnet18", (64, 128, 256, 512), (2, 2, 2, 2), 4_538_024),
        ("c3resnet50", (256, 512, 1024, 2048), (3, 4, 6, 3), 21_358_504),
    ],
)
def test_parameters_are_those_counted_by_hand(
    name: str, widths: tuple[int, ...], num_blocks: tuple[int, ...], expected: int
) -> None:
    assert count_by_hand(widths, num_blocks, name == "c3resnet50") == expected
    assert sum(parameter.numel() for parameter in meta_model(name).parameters()) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_the_blocks_of_its_resnet(name: str) -> None:
    ours, resnet = meta_model(name), meta_model(name.removeprefix("c3"))
    for stage in STAGES:
        blocks, theirs = getattr(ours, stage).c3.blocks, getattr(resnet, stage)
        assert [type(block) for block in blocks] == [type(block) for block in theirs]
        assert all(block.downsample is None for block in blocks)  # only the pooling halves
        assert getattr(ours, stage).c3.mix.conv.out_channels == 64 * 2 ** STAGES.index(stage) * (
            type(blocks[0]).expansion
        )


# Sizes --------------------------------------------------------------------------------------------


def maps(model: nn.Module, height: int, width: int) -> list[torch.Size]:
    """Shapes after each stage."""
    x = torch.zeros(1, 3, height, width, device="meta")
    shapes = []
    for modules in model.stage_modules().values():
        for module in modules:
            x = module(x)
        shapes.append(x.shape)
    return shapes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size_px", [1, 2, 31, 33, 64, 99, 224, 225, 231])
def test_maps_are_as_large_as_resnets(name: str, size_px: int) -> None:
    ours, resnet = meta_model(name), meta_model(name.removeprefix("c3"))
    assert ours.min_size_px == resnet.min_size_px == 1
    assert ours.min_size_alone_px == resnet.min_size_alone_px
    assert maps(ours, size_px, size_px) == maps(resnet, size_px, size_px)


PAIR = (meta_model("c3resnet18"), meta_model("resnet18"))


@settings(max_examples=25)
@given(st.integers(PAIR[0].min_size_px, 97), st.integers(PAIR[0].min_size_px, 97))
def test_maps_of_any_size_and_shape_are_as_large_as_resnets(height: int, width: int) -> None:
    ours, resnet = PAIR
    assert maps(ours, height, width) == maps(resnet, height, width)
