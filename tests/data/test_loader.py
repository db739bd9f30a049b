"""Batches: the same whatever happened before them, complete, and with no thread left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.auto import settle_augment
from fieldmark.data import loader as loader_module
from fieldmark.data.augment import policy as policy_module
from fieldmark.data.loader import Batch, EvalLoader, TrainLoader, batch_generator
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import Pixels, normalize
from fieldmark.errors import SourceError
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess, Sample
from support.stores import load_exact, store_of, streamed

CPU = Runtime(torch.device("cpu"))
RGB = Preprocess(8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NONE = settle_augment(AugmentRecipe(preset="none"))
STRONG = settle_augment(AugmentRecipe(preset="strong"))
NONE_BUT_CROPS = replace(NONE, crop_scale=(0.35, 1.0), crop_ratio=(0.75, 1.333))
STANDARD = replace(settle_augment(AugmentRecipe(preset="standard")), rotate_degrees=10.0)


def make_store(
    num: int, *, load: Callable[[str], Pixels] | None = None, whole: bool = False
) -> PixelStore:
    """Noise pictures; `whole` ones are larger than the input and each of its own size. Of pictures
    that `load` decodes, nothing is kept."""
    samples = [Sample(str(i), "a", "train") for i in range(num)]
    if load is not None:
        return streamed(samples, load)
    rng = np.random.default_rng(0)
    shapes = [(12 + i % 3, 14 - i % 4, 3) if whole else (8, 8, 3) for i in range(num)]
    pictures = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    return store_of(samples, Form("crops" if whole else "exact", RGB), pictures)


def canvas_store(num: int, side_px: int = 12) -> PixelStore:
    """Squares of noise that stand for pictures of several proportions."""
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8) for _ in range(num)]
    samples = [Sample(str(i), "a", "train") for i in range(num)]
    store = store_of(samples, Form("canvas", RGB), pictures)
    return replace(store, aspects_n=np.array([(0.5, 1.0, 1.5, 3.0)[i % 4] for i in range(num)]))


def train_loader(store: PixelStore, **words: Any) -> TrainLoader:
    words = {"batch_size": 4, "seed": 3, "labels": [0] * len(store), "augment": STANDARD} | words
    return TrainLoader(store, words.pop("labels"), RGB, words.pop("augment"), CPU, **words)


def eval_loader(store: PixelStore, batch_size: int = 4) -> EvalLoader:
    return EvalLoader(store, list(range(len(store))), RGB, CPU, batch_size=batch_size)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    """To the bit."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images_bchw, other.images_bchw)
        assert torch.equal(one.labels_b, other.labels_b)
        assert torch.equal(one.indices_b, other.indices_b)
        assert torch.equal(one.targets, other.targets)


# What is in a batch ------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_epoch_and_position_alone() -> None:
    loader = train_loader(make_store(11, whole=True))
    expected = list(loader.epoch(2))

    assert_same(list(loader.epoch(2)), expected)  # a second pass
    fresh = train_loader(make_store(11, whole=True))
    torch.manual_seed(99)
    assert_same(list(fresh.epoch(2)), expected)  # never saw epochs 0 and 1
    interrupted = loader.epoch(1)
    next(interrupted)
    assert_same(list(loader.epoch(2)), expected)  # while another epoch is under way
    del interrupted

    for other in (loader.epoch(3), train_loader(make_store(11, whole=True), seed=4).epoch(2)):
        assert not torch.equal(next(iter(other)).images_bchw, expected[0].images_bchw)


@settings(max_examples=25)
@given(st.data(), st.integers(1, 30), st.integers(1, 8), st.integers(0, 3), st.integers(0, 60))
def test_neither_where_an_epoch_begins_nor_how_far_the_thread_is_ahead_changes_a_batch(
    data: st.DataObject, num: int, batch_size: int, epoch: int, depth: int
) -> None:
    make = data.draw(st.sampled_from((partial(make_store, whole=True), make_store, canvas_store)))
    augment = data.draw(st.sampled_from((STANDARD, STRONG)))
    if make is make_store:
        augment = replace(augment, crop_scale=(1.0, 1.0))
    words = {"batch_size": batch_size, "augment": augment, "num_classes": 3}
    labels = [i % 3 for i in range(num)]
    expected = list(train_loader(make(num), labels=labels, **words).epoch(epoch))
    start = data.draw(st.integers(0, len(expected) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "PREFETCH", depth)
        rest = list(train_loader(make(num), labels=labels, **words).epoch(epoch, start=start))
    assert_same(rest, expected[start:])


def test_an_epoch_that_begins_at_its_end_is_over_at_once() -> None:
    loader = train_loader(make_store(9, whole=True))
    assert list(loader.epoch(0, start=len(loader))) == []


@pytest.mark.parametrize("policy", ["none", "trivialaugment", "randaugment"])
def test_the_number_of_threads_changes_nothing(policy: Literal["none", "trivialaugment"]) -> None:
    before = torch.get_num_threads()
    augment = replace(STRONG, policy=policy)
    epochs = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            loader = train_loader(make_store(31, whole=True), augment=augment, batch_size=10)
            epochs.append(list(loader.epoch(1)))
    finally:
        torch.set_num_threads(before)
    for epoch in epochs[1:]:
        assert_same(epoch, epochs[0])


def test_pictures_are_changed_in_the_loaders_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[str]()

    def watched(picture: Any, op: Any, fill: Any) -> Any:
        threads.add(threading.current_thread().name.rsplit("_", 1)[0])
        return picture

    monkeypatch.setattr(policy_module, "apply_op", watched)
    list(train_loader(make_store(11, whole=True), augment=STRONG).epoch(0))
    assert threads == {"fieldmark-loader"}


def test_torch_starts_no_threads_of_its_own_in_the_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, int]()

    def watched(picture: Any, op: Any, fill: Any) -> Any:
        seen[threading.current_thread().name] = torch.get_num_threads()
        return picture

    monkeypatch.setattr(policy_module, "apply_op", watched)
    before = torch.get_num_threads()
    list(train_loader(make_store(30, whole=True), augment=STRONG).epoch(0))
    assert set(seen.values()) == {1}
    assert torch.get_num_threads() == before  # where the training step is computed


def test_batches_that_a_reader_keeps_stay_as_they_are() -> None:
    loader = train_loader(make_store(40, whole=True), augment=NONE_BUT_CROPS)
    kept = list(loader.epoch(0))
    copies = [batch.images_bchw.clone() for batch in kept]
    list(loader.epoch(1))
    for batch, copy in zip(kept, copies, strict=True):
        assert torch.equal(batch.images_bchw, copy)


def test_the_training_threads_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3).tolist(), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    list(train_loader(make_store(11, whole=True), augment=STRONG).epoch(0))
    assert (torch.rand(3).tolist(), np.random.rand()) == expected


def test_a_batch_that_was_kept_is_not_written_over_by_the_next() -> None:
    """Crops share memory from batch to batch; what leaves the loader does not."""
    for augment in (STANDARD, STRONG, replace(NONE, crop_scale=(0.5, 1.0))):
        batches, copies = [], []
        for batch in train_loader(make_store(24, whole=True), augment=augment).epoch(0):
            batches.append(batch.images_bchw)
            copies.append(batch.images_bchw.clone())
        for batch, copy in zip(batches, copies, strict=True):
            assert torch.equal(batch, copy)


def test_a_picture_is_augmented_differently_in_each_epoch() -> None:
    loader = train_loader(make_store(2, whole=True), batch_size=2)
    by_epoch = []
    for epoch in range(3):
        (batch,) = loader.epoch(epoch)
        by_epoch.append(batch.images_bchw[batch.indices_b.argsort()])
    assert not torch.equal(by_epoch[0], by_epoch[1])
    assert not torch.equal(by_epoch[1], by_epoch[2])


def test_no_two_places_of_a_training_share_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def spy(*place: int) -> torch.Generator:
        generator = batch_generator(*place)
        seeds.append(generator.initial_seed())
        return generator

    monkeypatch.setattr(loader_module, "batch_generator", spy)
    for seed in range(3):
        for epoch in range(3):
            list(train_loader(make_store(12, whole=True), seed=seed).epoch(epoch))
    assert len(set(seeds)) == len(seeds) == 3 * 3 * (1 + 3)  # the order, and three batches


def test_batches_are_ready_for_the_network() -> None:
    labels = [5, 6, 7, 8, 9, 10]
    for batch in train_loader(make_store(6, whole=True), labels=labels).epoch(0):
        assert batch.images_bchw.dtype == torch.float32
        assert batch.images_bchw.shape[1:] == (3, 8, 8)
        assert batch.images_bchw.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels_b.dtype == batch.indices_b.dtype == torch.int64
        assert batch.labels_b.tolist() == [labels[i] for i in batch.indices_b.tolist()]


def test_mixed_batches_come_with_soft_targets_and_the_labels_they_were_mixed_into() -> None:
    labels = [0, 1, 2, 3, 4, 0, 1, 2]
    for words in ({"mixup": 0.5}, {"cutmix": 1.0}):
        loader = train_loader(
            make_store(8), labels=labels, augment=replace(NONE, **words), num_classes=6
        )
        plain = train_loader(make_store(8), labels=labels, augment=NONE)
        for batch, unmixed in zip(loader.epoch(0), plain.epoch(0), strict=True):
            assert batch.labels_b.tolist() == [labels[i] for i in batch.indices_b.tolist()]
            assert batch.targets.shape == (4, 6)
            share = batch.targets[torch.arange(4), batch.labels_b]
            partner = batch.labels_b.roll(1)
            assert torch.equal((batch.targets > 0).sum(1), 1 + (partner != batch.labels_b).long())
            if "mixup" in words:
                lam = share[partner != batch.labels_b][0]
                expected = lam * unmixed.images_bchw + (1 - lam) * unmixed.images_bchw.roll(1, 0)
                torch.testing.assert_close(batch.images_bchw, expected, atol=1e-5, rtol=0)


def test_unmixed_batches_have_labels_for_targets() -> None:
    for batch in train_loader(make_store(8), augment=NONE).epoch(0):
        assert batch.targets is batch.labels_b
    lonely = train_loader(make_store(3), augment=replace(NONE, mixup=1.0), batch_size=1)
    for batch in lonely.epoch(0):  # one picture has no partner
        assert batch.targets is batch.labels_b


def test_the_width_of_targets_is_told_or_that_of_the_labels() -> None:
    assert train_loader(make_store(3), labels=[0, 4, 1]).num_classes == 5
    assert train_loader(make_store(3), labels=[0, 4, 1], num_classes=9).num_classes == 9


def test_canvases_are_cropped_to_the_input() -> None:
    for batch in train_loader(canvas_store(7)).epoch(0):
        assert batch.images_bchw.shape[1:] == (3, 8, 8)
        assert batch.images_bchw.is_contiguous(memory_format=torch.channels_last)


def test_training_without_augmentation_sees_what_evaluation_sees() -> None:
    store = make_store(6)
    evaluated = torch.cat([batch.images_bchw for batch in eval_loader(store)])
    for batch in train_loader(store, augment=NONE).epoch(0):
        assert torch.equal(batch.images_bchw, evaluated[batch.indices_b])


# Which pictures ----------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_picture_comes_once_an_epoch_and_never_alone(
    num: int, batch_size: int, epoch: int
) -> None:
    loader = train_loader(make_store(num), batch_size=batch_size, augment=NONE)
    batches = [batch.indices_b.tolist() for batch in loader.epoch(epoch)]
    assert sorted(i for batch in batches for i in batch) == list(range(num))
    assert len(batches) == len(loader)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) <= batch_size + 1
    if batch_size > 1 and num > 1:
        assert len(batches[-1]) > 1, "batch norm cannot learn from one picture"
    if batch_size == 1:
        assert len(batches) == num


def test_epochs_are_shuffled_anew() -> None:
    loader = train_loader(make_store(50))
    assert loader.order(0).tolist() != loader.order(1).tolist() != list(range(50))
    firsts = [int(loader.order(epoch)[0]) for epoch in range(400)]
    assert len(set(firsts)) > 45  # any picture may come first


def test_balanced_sampling_shows_every_class_equally_often() -> None:
    labels = [0] * 170 + [1] * 25 + [2] * 5
    loader = train_loader(make_store(200), labels=labels, sampling="balanced")
    shown = torch.stack([loader.order(epoch) for epoch in range(50)])
    assert shown.shape == (50, 200)
    counts = torch.bincount(torch.tensor(labels)[shown.flatten()])
    # 10,000 draws at 1/3: 4 standard errors are 1.9 %.
    assert (counts / 10_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.019)
    within = torch.bincount(shown.flatten(), minlength=200)[-5:] / counts[2]
    assert within.tolist() == pytest.approx([0.2] * 5, abs=0.03)


@pytest.mark.parametrize(("num", "num_batches"), [(8, 2), (9, 3), (1, 1), (0, 0)])
def test_evaluation_keeps_order_and_never_augments(num: int, num_batches: int) -> None:
    store = make_store(num)
    loader = eval_loader(store)
    batches = list(loader)
    assert len(batches) == len(loader) == num_batches
    indices = [i for batch in batches for i in batch.indices_b.tolist()]
    assert indices == list(range(num))
    assert [i for batch in batches for i in batch.labels_b.tolist()] == indices
    for batch in batches:
        for image, index in zip(batch.images_bchw, batch.indices_b.tolist(), strict=True):
            plain = torch.from_numpy(store.get(index)).permute(2, 0, 1)[None]
            assert torch.equal(image[None], normalize(plain, RGB))


def test_what_a_store_raises_stops_the_reader() -> None:
    pixels = make_store(8)

    def load(path: str) -> Pixels:
        if path == "6":
            raise SourceError("a picture can no longer be read: no such file", given=path)
        return pixels.get(int(path))

    store = make_store(8, load=load)
    batches = iter(eval_loader(store))
    assert next(batches).indices_b.tolist() == [0, 1, 2, 3]
    with pytest.raises(SourceError, match=r"no longer be read: no such file\n  given:  6"):
        next(batches)
    trained = train_loader(store, labels=list(range(8)), augment=NONE)
    with pytest.raises(SourceError, match="no longer be read"):
        list(trained.epoch(0))


def test_streamed_pictures_make_the_same_batches(tmp_path: Path, make_pictures: Any) -> None:
    folder = make_pictures(tmp_path, {"cat": 5}, size=20) / "cat"
    paths = sorted(map(str, folder.iterdir()))
    load = partial(load_exact, preprocess=RGB)
    samples = tuple(Sample(path, "cat") for path in paths)
    kept = store_of(samples, Form("exact", RGB), [load(path) for path in paths])
    assert_same(list(eval_loader(streamed(samples, load))), list(eval_loader(kept)))


# Threads -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


def loader_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("fieldmark-loader")]


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_a_reader_that_stops_leaves_no_thread(kind: str) -> None:
    store = make_store(40, whole=kind == "train")
    batches: Iterator[Batch]
    batches = train_loader(store).epoch(0) if kind == "train" else iter(eval_loader(store))
    next(batches)
    assert loader_threads()  # they work ahead
    del batches
    assert not loader_threads()


def test_a_reader_that_fails_leaves_no_thread() -> None:
    def read() -> None:
        for _ in train_loader(make_store(40, whole=True)).epoch(0):
            raise RuntimeError("the loss is not finite")

    with pytest.raises(RuntimeError, match="not finite"):
        read()
    assert not loader_threads()


def test_a_failure_while_preparing_reaches_the_reader() -> None:
    def load(path: str) -> Pixels:
        if path == "21":
            raise MemoryError("no memory left")
        return np.zeros((8, 8, 3), np.uint8)

    seen: list[int] = []

    def read() -> None:
        for batch in eval_loader(make_store(40, load=load)):
            seen.extend(batch.indices_b.tolist())

    with pytest.raises(MemoryError, match="no memory left"):
        read()
    assert seen == list(range(20))  # whatever came before was good
    assert not loader_threads()


def test_the_threads_stay_a_few_batches_ahead() -> None:
    asked: list[int] = []

    def load(path: str) -> Pixels:
        asked.append(int(path))
        return np.zeros((8, 8, 3), np.uint8)

    batches = iter(eval_loader(make_store(400, load=load)))
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # waits for the batch in preparation
    ahead = max(loader_module.PREFETCH, torch.get_num_threads())
    assert len(asked) <= 4 * (ahead + 1)
