"""Devices, precision and seeds."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from fieldmark.errors import RecipeError
from fieldmark.runtime import Runtime, describe_machine, open_runtime, seed_everything

CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int, mps: bool, bf16: bool = True) -> None:
    """A machine with other devices than this one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, False, "auto", "cuda:0"),
        (1, True, "auto", "cuda:0"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "mps", "mps"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_the_best_device_is_chosen_and_can_be_changed(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, name: str, expected: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert open_runtime(name).device == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "CPU", "gpu", "", "cpu:0"])
def test_a_device_this_machine_has_not_is_refused_with_those_it_has(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pretend(monkeypatch, cuda=0, mps=False)
    with pytest.raises(RecipeError, match="this machine has no such device") as caught:
        open_runtime(name)
    assert f"given:  {name}" in str(caught.value)
    assert "valid:  auto, cpu\n" in str(caught.value)
    assert "drop --device" in str(caught.value)

    pretend(monkeypatch, cuda=1, mps=False)
    with pytest.raises(RecipeError, match="valid:  auto, cpu, cuda:0\n"):
        open_runtime("cuda:7")


def test_mixed_precision_by_itself_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=1, mps=True)
    assert open_runtime("cuda").half is torch.bfloat16
    assert open_runtime("mps").half is None
    assert open_runtime("cpu").half is None
    pretend(monkeypatch, cuda=1, mps=True, bf16=False)
    older = open_runtime("cuda")
    assert older.half is torch.float16
    assert older.scales_gradients
    assert open_runtime("cuda", "float32").half is None
    assert open_runtime("cuda", "bfloat16").half is torch.bfloat16


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(RecipeError, match="float16 does not train on a CPU") as caught:
        open_runtime("cpu", "float16")
    assert "choose bfloat16" in str(caught.value)
    assert not open_runtime("cpu", "bfloat16").scales_gradients


def test_in_float32_autocast_is_the_identity() -> None:
    runtime = open_runtime("cpu")
    assert isinstance(runtime.autocast(), nullcontext)
    layer, images = nn.Linear(5, 3), torch.randn(2, 5)
    with runtime.autocast():
        inside = layer(images)
    assert torch.equal(inside, layer(images))
    assert inside.dtype == torch.float32


def test_in_bfloat16_autocast_computes_in_16_bits_and_keeps_the_weights() -> None:
    layer = nn.Linear(5, 3)
    with open_runtime("cpu", "bfloat16").autocast():
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32


def test_placing_on_the_device_where_something_is_copies_nothing() -> None:
    images = torch.randn(2, 3)
    assert Runtime(CPU).place(images) is images


def test_a_placed_network_computes_the_same_in_channels_last_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    placed = Runtime(CPU).place_network(model)
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(placed(images), expected)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**63 - 1])
def test_one_seed_decides_every_random_number(seed: int) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_everything(seed)
    first = draw()
    assert draw() != first
    seed_everything(seed)
    assert draw() == first
    seed_everything(seed - 1 if seed else 1)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def test_the_machine_is_described_for_the_record() -> None:
    told = describe_machine(open_runtime("cpu"))
    assert json.loads(json.dumps(told)) == told
    assert str(told["device"]).startswith("cpu (")
    assert told["precision"] == "float32"
    assert told["torch"] == torch.__version__
    assert describe_machine(open_runtime("cpu", "bfloat16"))["precision"] == "bfloat16"
