"""The pixel store: what is kept, what is left out, what it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.holders import InMemory, OnDevice, Streamed
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import Pixels
from fieldmark.errors import SourceError
from fieldmark.progress import Silent
from fieldmark.types import LeftOut, Preprocess, Sample
from support.stores import FormOf, load_exact, streamed

TINY = Preprocess(16, 3, (0.0,) * 3, (1.0,) * 3)


def LOAD(path: str) -> Pixels:  # noqa: N802
    return load_exact(path, TINY)


class Counting(Silent):
    """Counts what a job reports."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count


@pytest.fixture
def samples(tmp_path: Path, make_pictures: Callable[..., Path]) -> list[Sample]:
    """Pictures 0-9 of a class; 3 is empty, 7 is text."""
    folder = make_pictures(tmp_path, {"cat": 10}) / "cat"
    (folder / "003.png").write_bytes(b"")
    (folder / "007.png").write_text("not a picture")
    return [Sample(str(path), "cat", "train") for path in sorted(folder.iterdir())]


def build(samples: list[Sample], **words: Any) -> PixelStore:
    words = {"strict": False, "title": "decoding", "progress": Silent()} | words
    load = words.pop("load", None)
    form = FormOf(load=load) if load else Form("exact", TINY)
    return build_store(samples, form, **words)


def test_every_picture_is_kept_or_left_out_with_its_reason(samples: list[Sample]) -> None:
    progress = Counting()
    store = build(samples, progress=progress)
    assert progress.done == 10
    assert len(store) == 8
    assert store.samples == tuple(s for i, s in enumerate(samples) if i not in (3, 7))
    assert [item.path for item in store.left_out] == [samples[3].path, samples[7].path]
    assert store.left_out[0] == LeftOut(samples[3].path, "file is empty")
    assert "not a picture" in store.left_out[1].reason
    for index, sample in enumerate(store.samples):
        np.testing.assert_array_equal(store.get(index), LOAD(sample.path))


def test_what_is_not_kept_is_the_same_picture(samples: list[Sample]) -> None:
    kept, again = build(samples), build(samples, keep="none")
    assert isinstance(kept.holder, InMemory)
    assert isinstance(again.holder, Streamed)
    assert (again.samples, again.left_out) == (kept.samples, kept.left_out)
    for index in range(len(kept)):
        np.testing.assert_array_equal(kept.get(index), again.get(index))


def test_a_kept_picture_outlives_its_file_and_a_streamed_one_is_missed(
    samples: list[Sample],
) -> None:
    kept, again = build(samples), build(samples, keep="none")
    Path(samples[1].path).unlink()
    assert len(list(kept.get_many(range(8)))) == 8
    with pytest.raises(SourceError) as caught:
        list(again.get_many(range(8)))
    assert "can no longer be read: no such file" in str(caught.value)
    assert samples[1].path in str(caught.value)
    assert "bring it back" in str(caught.value)
    with pytest.raises(SourceError, match="no such file"):
        again.get(1)


def test_few_streamed_pictures_wait_to_be_taken() -> None:
    """Mean and std are measured over a thousand whole pictures: they must not all be in memory."""
    num_decoded = 0

    def load(path: str) -> Pixels:
        nonlocal num_decoded
        num_decoded += 1
        return np.full((1, 1, 1), int(path) % 256, np.uint8)

    many = tuple(Sample(str(number), "a") for number in range(1000))
    taken = streamed(many, load).get_many(range(1000))
    next(taken)
    time.sleep(0.2)  # plenty for all of them, were they queued
    assert num_decoded <= 64
    assert [int(pixels[0, 0, 0]) for pixels in taken] == [n % 256 for n in range(1, 1000)]


def test_strict_stops_at_the_first_bad_picture(samples: list[Sample]) -> None:
    with pytest.raises(SourceError, match="a picture cannot be read: file is empty") as caught:
        build(samples, strict=True)
    assert samples[3].path in str(caught.value)
    assert "drop --strict" in str(caught.value)
    assert len(build(samples[:3], strict=True)) == 3


def test_order_is_the_manifests_however_long_a_picture_takes(samples: list[Sample]) -> None:
    gate = threading.Event()

    def load(path: str) -> Pixels:
        if path == samples[0].path:
            gate.wait(5)  # the first is ready last
        if path == samples[9].path:
            gate.set()
        return np.full((1, 1, 3), int(Path(path).stem), np.uint8)

    store = build(samples, load=load)
    assert [int(store.get(i)[0, 0, 0]) for i in range(10)] == list(range(10))


def test_each_picture_is_decoded_once(samples: list[Sample]) -> None:
    seen: list[str] = []

    def load(path: str) -> Pixels:
        seen.append(path)
        return LOAD(path)

    store = build(samples * 30, load=load)  # several slices
    for index in range(len(store)):
        store.get(index)
    assert sorted(seen) == sorted(s.path for s in samples * 30)


@pytest.mark.parametrize("strict", [True, False])
def test_no_thread_is_left_and_little_is_done_after_a_failure(
    samples: list[Sample], strict: bool
) -> None:
    before = set(threading.enumerate())
    num_decoded = 0

    def load(path: str) -> Pixels:
        nonlocal num_decoded
        num_decoded += 1
        if not strict:
            raise RuntimeError("a bug, not a bad picture")
        return LOAD(path)

    with pytest.raises(SourceError if strict else RuntimeError):
        build(samples * 100, load=load, strict=strict)
    assert num_decoded <= 64
    assert set(threading.enumerate()) <= before


# On a device --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "canvas"])
def test_a_store_on_a_device_gives_the_same_pictures(samples: list[Sample], kind: Any) -> None:
    """The CPU stands in for the GPU; tests/gpu does the same on one."""
    form = Form(kind, TINY)
    words: dict[str, Any] = {"strict": False, "title": "", "progress": Silent()}
    held = build_store(samples, form, **words)
    placed = build_store(samples, form, keep="gpu", device=torch.device("cpu"), **words)
    assert isinstance(placed.holder, OnDevice)
    assert (placed.samples, placed.left_out) == (held.samples, held.left_out)
    order = [5, 0, 7, 7, 3]
    assert torch.equal(placed.stack(order), held.stack(order))
    assert torch.equal(placed.aspects(order), held.aspects(order))
    for one, other in zip(placed.get_many(order), held.get_many(order), strict=True):
        np.testing.assert_array_equal(one, other)
    assert placed.stack(order).is_contiguous(memory_format=torch.channels_last)
    assert held.stack(order).is_contiguous(memory_format=torch.channels_last)
