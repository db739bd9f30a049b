"""Inference sees every picture once, in evaluation mode, and leaves the network as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fieldmark.data.loader import Batch, EvalLoader
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.form import Form
from fieldmark.inference import run_inference
from fieldmark.models.registry import create_model
from fieldmark.progress import Silent
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess, Sample
from support.stores import load_exact

CPU = Runtime(torch.device("cpu"))
PREPROCESS = Preprocess(32, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), crop_fraction=0.8)


def batches(*sizes: int) -> Iterator[Batch]:
    generator, start = torch.Generator().manual_seed(0), 0
    for size in sizes:
        indices_b = torch.arange(start, start + size)
        images_bchw = torch.randn(size, 3, 32, 32, generator=generator)
        yield Batch(images_bchw, indices_b % 4, indices_b)
        start += size


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet10", num_classes=4)


def test_outputs_are_those_of_the_network_in_evaluation_mode(network: nn.Module) -> None:
    outputs = run_inference(network.train(), batches(5, 5, 2), CPU)
    images = torch.cat([batch.images_bchw for batch in batches(5, 5, 2)])
    with torch.inference_mode():
        expected = network.eval()(images)
    assert outputs.logits_nk.dtype == torch.float32
    torch.testing.assert_close(outputs.logits_nk, expected)
    assert outputs.indices_n.tolist() == list(range(12))
    assert outputs.labels_n.tolist() == [i % 4 for i in range(12)]


def test_every_modules_mode_is_as_it_was_and_no_statistic_moved(network: nn.Module) -> None:
    network.train()
    network.layer1.eval()  # type: ignore[union-attr, operator]
    network.layer4[0].bn2.eval()  # type: ignore[index, union-attr]
    before = {name: module.training for name, module in network.named_modules()}
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    run_inference(network, batches(4), CPU)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert len(set(before.values())) == 2
    for name, value in network.named_buffers():
        assert torch.equal(value, statistics[name]), name


def test_modes_come_back_even_when_the_network_fails(network: nn.Module) -> None:
    network.train()
    with pytest.raises(ValueError, match="channels"):
        run_inference(network, [Batch(torch.zeros(2, 1, 32, 32), *[torch.zeros(2)] * 2)], CPU)
    assert all(module.training for module in network.modules())


def test_no_pictures_give_no_rows(network: nn.Module) -> None:
    outputs = run_inference(network, [], CPU)
    assert [len(outputs.logits_nk), len(outputs.labels_n), len(outputs.indices_n)] == [0, 0, 0]


def test_weights_still_train_afterwards(network: nn.Module) -> None:
    """Tensors born in inference mode must not get into the network."""
    run_inference(network, batches(4), CPU)
    network.train()(next(batches(4)).images_bchw).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_progress_counts_pictures_not_batches(network: nn.Module) -> None:
    counts: list[int] = []

    class Counting(Silent):
        def advance(self, count: int = 1, note: str = "") -> None:
            counts.append(count)

    run_inference(network, batches(5, 5, 2), CPU, Counting())
    assert counts == [5, 5, 2]


def test_half_precision_gives_float32_logits_near_the_full_ones(network: nn.Module) -> None:
    half = run_inference(network, batches(8), Runtime(torch.device("cpu"), torch.bfloat16))
    full = run_inference(network, batches(8), CPU)
    assert half.logits_nk.dtype == torch.float32
    assert not torch.equal(half.logits_nk, full.logits_nk)
    torch.testing.assert_close(half.logits_nk, full.logits_nk, atol=0.1, rtol=0.1)


def test_files_come_out_as_the_network_says_of_them_one_by_one(
    network: nn.Module, tmp_path: Path, make_pictures: Any
) -> None:
    """Store, loader and inference add nothing to load, normalise, ask."""
    folder = make_pictures(tmp_path, {"a": 4, "b": 3}, size=44)
    paths = sorted(map(str, folder.glob("*/*.png")))
    store = build_store(
        [Sample(path, "") for path in paths],
        Form("exact", PREPROCESS),
        keep="none",
        strict=True,
        title="",
        progress=Silent(),
    )
    loader = EvalLoader(store, [-1] * len(paths), PREPROCESS, CPU, batch_size=3)
    outputs = run_inference(network, loader, CPU)
    mean, std = np.array(PREPROCESS.mean), np.array(PREPROCESS.std)
    for path, logits_k in zip(paths, outputs.logits_nk, strict=True):
        picture = (load_exact(path, PREPROCESS) / 255 - mean) / std
        image_bchw = torch.from_numpy(picture).float().permute(2, 0, 1)[None]
        with torch.inference_mode():
            alone = network.eval()(image_bchw)[0]
        torch.testing.assert_close(logits_k, alone, atol=1e-5, rtol=1e-4)
    assert outputs.labels_n.tolist() == [-1] * 7
