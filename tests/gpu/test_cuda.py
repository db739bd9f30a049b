"""Training and prediction on a CUDA device: mixed precision learns, and agrees with the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import fieldmark as fm
from fieldmark.progress import Silent
from fieldmark.runtime import open_runtime

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no CUDA device: these tests train on an NVIDIA GPU and compare it with the CPU",
)


@pytest.fixture
def photos(tmp_path: Path, make_pictures: Any) -> Path:
    counts = {"ant": 60, "bee": 60, "wasp": 60}
    folder: Path = make_pictures(tmp_path / "photos", counts, size=40)
    return folder


def train(source: Path, out: Path, precision: str, **words: Any) -> fm.Run:
    return fm.train(
        source,
        out=out,
        model="resnet10",
        size=32,
        epochs=6,
        batch_size=16,
        device="cuda",
        # SGD: unlike Adam it notices a gradient that is clipped before its scale is undone.
        optimizer="sgd",
        lr=0.02,
        settings={"precision": precision, "optimizer.clip_norm": 1.0, **words},
        progress=Silent(),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_learns_and_predicts_as_the_cpu_does(
    photos: Path, tmp_path: Path, precision: str
) -> None:
    """float16 goes through the gradient scaler, with clipping after it is undone."""
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this CUDA device does not compute in bfloat16")
    run = train(photos, tmp_path / "run", precision, **{"training.ema_decay": 0.9})
    assert run.test is not None
    assert run.test.accuracy.value >= 0.9
    assert run.history[-1].train_loss < 0.5 * run.history[0].train_loss
    pictures = sorted(map(str, photos.glob("*/00*.png")))
    on_gpu = fm.load(run.path, "cuda").predict(pictures)
    on_cpu = fm.load(run.path, "cpu").predict(pictures)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        # The device computes in 16 bits: three decimal digits.
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=0.03)


def test_automatic_precision_is_sixteen_bits_and_the_device_the_first() -> None:
    runtime = open_runtime()
    assert runtime.device == torch.device("cuda:0")
    expected = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    assert runtime.half is expected
    assert runtime.scales_gradients == (expected is torch.float16)


def test_a_loss_of_nan_is_noticed_although_the_loop_looks_only_now_and_then(
    photos: Path, tmp_path: Path
) -> None:
    def ruin(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        if not (module.training and getattr(module, "name", "") == "resnet10"):
            return None
        steps.append(1)
        return out * torch.nan if len(steps) == 13 else None  # 9 steps an epoch: in the second

    steps: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_hook(ruin)
    try:
        with pytest.raises(fm.FieldmarkError, match="nan at step 13; the model of epoch") as caught:
            train(photos, tmp_path / "run", "float32", **{"schedule.name": "cosine"})
    finally:
        handle.remove()
    rate = 0.02 * 0.5 * (1 + math.cos(math.pi * 12 / 54))  # of that step, not of the last one
    assert f"learning rate {rate:.3g} at that step" in str(caught.value)
    assert fm.load(tmp_path / "run", "cpu").info.history["epoch"] == 1


def test_a_device_number_that_is_not_there_is_named() -> None:
    with pytest.raises(fm.FieldmarkError, match=r"(?s)no such device.*cuda:99.*auto, cpu, cuda:0"):
        open_runtime("cuda:99")
