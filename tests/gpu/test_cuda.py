"""Training and prediction on a CUDA device: mixed precision learns, and agrees with the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fieldmark as fm
from fieldmark.auto import settle_augment
from fieldmark.data.augment.apply import augment_batch
from fieldmark.data.loader import TrainLoader
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import STORE_MARGIN
from fieldmark.progress import Silent
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime, open_runtime
from fieldmark.types import Preprocess, Sample
from support.pictures import seeded, smooth_batch
from support.stores import store_of

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


def photos_as_canvases(num: int, size_px: int) -> PixelStore:
    """Colourful pictures of several proportions, as `load_canvas` leaves them, in memory."""
    side_px = round(STORE_MARGIN * size_px)
    canvases = smooth_batch(num, 3, side_px, side_px).permute(0, 2, 3, 1).numpy()
    samples = [Sample(str(i), "a", "train") for i in range(num)]
    preprocess = Preprocess(size_px, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    store = store_of(samples, Form("canvas", preprocess), list(canvases))
    return replace(store, aspects_n=np.array([(0.5, 0.75, 1.0, 1.5)[i % 4] for i in range(num)]))


@pytest.mark.parametrize("preset", ["none", "light", "standard", "strong"])
def test_canvases_are_cropped_and_augmented_on_the_gpu_as_on_the_cpu(preset: str) -> None:
    """Not to the bit, and not the policies, which are Pillow's on one side and torch's on the
    other; the draws are the same, so pictures and targets agree."""
    store = photos_as_canvases(24, 64)
    augment = settle_augment(AugmentRecipe(preset=preset, policy="none"))  # type: ignore[arg-type]
    if preset == "none":
        augment = replace(augment, crop_scale=(0.5, 1.0))
    batches = []
    for device in ("cuda", "cpu"):
        loader = TrainLoader(
            store,
            [i % 3 for i in range(24)],
            store.form.preprocess,
            augment,
            Runtime(torch.device(device)),
            batch_size=8,
            seed=5,
        )
        batches.append(list(loader.epoch(1)))
    for on_gpu, on_cpu in zip(*batches, strict=True):
        assert on_gpu.images_bchw.is_cuda
        assert on_gpu.targets.is_cuda
        apart = (on_gpu.images_bchw.cpu() - on_cpu.images_bchw).abs()
        one_level = 1 / 255 / 0.2
        assert apart.mean() < 0.05 * one_level
        assert apart.max() < 3 * one_level
        torch.testing.assert_close(on_gpu.targets.cpu(), on_cpu.targets)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_on_the_gpu_look_as_on_the_cpu(policy: str) -> None:
    images = smooth_batch(64, 3, 64, 64)
    augment = replace(settle_augment(AugmentRecipe(preset="none")), policy=policy)  # type: ignore[arg-type]
    on_cpu = augment_batch(images, augment, seeded(3)).int()
    on_gpu = augment_batch(images.cuda(), augment, seeded(3)).cpu().int()
    assert (on_cpu != images).any()
    apart = (on_gpu - on_cpu).abs().float()
    assert apart.mean() < 0.5  # levels
    assert apart.median() <= 1


def test_pictures_already_on_the_gpu_stay_where_they_are() -> None:
    runtime = open_runtime()
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device="cuda")
    assert runtime.place(images).data_ptr() == images.data_ptr()
