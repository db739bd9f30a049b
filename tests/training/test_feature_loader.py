"""Features in a training: the pictures' order, every view in its turn, and the same losses."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldmark.data.features.form import FeatureForm
from fieldmark.data.features.store import Features, InMemory, OnDisk
from fieldmark.data.loader import Batch, EvalLoader, TrainLoader
from fieldmark.data.views import EXACT
from fieldmark.inference import run_inference
from fieldmark.progress import Silent
from fieldmark.runtime import Runtime
from fieldmark.training.feature_loader import FeatureEvalLoader, FeatureTrainLoader
from fieldmark.training.features import compute_features
from fieldmark.training.loop import fit

CPU = Runtime(torch.device("cpu"))


def numbered(num: int, num_views: int) -> Features:
    """Each feature says which picture and view it is of."""
    values = torch.stack(torch.meshgrid(torch.arange(num), torch.arange(num_views), indexing="ij"))
    holder = InMemory(values.permute(1, 2, 0).float().contiguous())
    return Features(tuple(range(num_views)), (2,), num, 0, holder)


def loader(features: Features, **words: Any) -> FeatureTrainLoader:
    words = {"labels": [0] * len(features), "batch_size": 4, "seed": 3} | words
    return FeatureTrainLoader(features, words.pop("labels"), CPU, **words)


def shown(batches: list[Batch]) -> list[tuple[int, int]]:
    """(picture, view) in order."""
    for batch in batches:
        assert torch.equal(batch.images_bchw[:, 0].long(), batch.indices_b)
    return [tuple(row) for batch in batches for row in batch.images_bchw.long().tolist()]


def features_of(loader: Any) -> Features:
    """Pictures themselves as features of a lower part that does nothing."""
    store = loader.store
    form = FeatureForm("", {}, "stem", store.form, loader.preprocess)
    words: dict[str, Any] = {"batch_size": 5, "progress": Silent(), "title": ""}
    return compute_features(
        store, [None] * len(store), [EXACT], lambda x: x, form, None, CPU, **words
    )


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    """To the bit, and laid out alike in memory."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images_bchw, other.images_bchw)
        assert one.images_bchw.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.labels_b, other.labels_b)
        assert torch.equal(one.indices_b, other.indices_b)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
@pytest.mark.parametrize("num", [9, 13])
def test_features_come_as_the_pictures_would(
    make_recipe: Callable[..., Any],
    make_tiny_loaders: Callable[..., tuple[TrainLoader, EvalLoader]],
    sampling: Any,
    num: int,
) -> None:
    recipe = make_recipe(training__sampling=sampling, training__batch_size=4, seed=5)
    train, val = make_tiny_loaders(recipe, num_train=num, num_val=10, rare=2)
    ours = FeatureTrainLoader(
        features_of(train), train.labels_n.tolist(), CPU, batch_size=4, seed=5, sampling=sampling
    )
    assert len(ours) == len(train)
    assert len(ours.store) == len(train.store)
    assert torch.equal(ours.labels_n, train.labels_n)
    for epoch in range(3):
        assert torch.equal(ours.order(epoch), train.order(epoch))
        assert_same(list(ours.epoch(epoch)), list(train.epoch(epoch)))
        assert_same(list(ours.epoch(epoch, 1)), list(train.epoch(epoch, 1)))
    judged = FeatureEvalLoader(features_of(val), val.labels_n.tolist(), CPU, batch_size=4)
    assert len(judged) == len(val) == 3
    assert judged.num_pictures == len(judged.store) == len(val.store) == 10
    assert_same(list(judged), list(val))
    assert_same(list(judged), list(val))  # as often as one likes


def test_a_training_on_features_is_the_training_on_pictures(
    make_recipe: Callable[..., Any],
    make_network: Callable[..., nn.Module],
    make_tiny_loaders: Callable[..., tuple[TrainLoader, EvalLoader]],
) -> None:
    recipe = make_recipe()
    train, val = make_tiny_loaders(recipe)
    batch_size = recipe.training.batch_size
    ours: tuple[Any, Any] = (
        FeatureTrainLoader(
            features_of(train),
            train.labels_n.tolist(),
            CPU,
            batch_size=batch_size,
            seed=recipe.seed,
        ),
        FeatureEvalLoader(features_of(val), val.labels_n.tolist(), CPU, batch_size=batch_size),
    )
    runs = []
    for loaders in ((train, val), ours):
        model = make_network()
        result = fit(model, *loaders, recipe, CPU, Silent(), lambda *_: None)
        outputs = run_inference(model, loaders[1], CPU)
        runs.append(([(r.train_loss, r.val_loss) for r in result.history], outputs))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1].logits_nk, runs[1][1].logits_nk)


# Views -------------------------------------------------------------------------------------------


@given(
    num=st.integers(2, 20),
    num_views=st.integers(1, 5),
    seed=st.integers(0, 99),
    start=st.integers(0, 9),
)
def test_in_as_many_epochs_as_views_each_is_shown_once(
    num: int, num_views: int, seed: int, start: int
) -> None:
    ours = loader(numbered(num, num_views), seed=seed)
    seen = Counter(
        pair for epoch in range(start, start + num_views) for pair in shown(list(ours.epoch(epoch)))
    )
    assert seen == {(i, view): 1 for i in range(num) for view in range(num_views)}


def test_an_epoch_shows_all_views_about_equally_often() -> None:
    num, num_views = 4000, 4
    ours = loader(numbered(num, num_views), batch_size=500)
    for epoch in range(3):
        counts = Counter(view for _, view in shown(list(ours.epoch(epoch))))
        assert all(abs(counts[view] - num / 4) < 5 * (num * 3 / 16) ** 0.5 for view in range(4))


def test_views_are_drawn_by_the_seed_alone() -> None:
    features = numbered(50, 6)
    first = shown(list(loader(features, seed=1).epoch(4)))
    assert shown(list(loader(features, seed=1, batch_size=7).epoch(4))) == first
    other = dict(shown(list(loader(features, seed=2).epoch(4))))
    assert sum(other[i] == view for i, view in first) < 25  # 8 of 50 by chance
    neighbours = dict(first)
    assert len({(neighbours[i + 1] - neighbours[i]) % 6 for i in range(49)}) == 6


def test_what_balancing_shows_again_is_another_view() -> None:
    labels = [0] * 38 + [1] * 2
    ours = loader(numbered(40, 5), labels=labels, sampling="balanced")
    pairs = shown(list(ours.epoch(0)))
    assert len(pairs) == 40
    times = Counter(i for i, _ in pairs)
    rare = [i for i in (38, 39) if times[i] >= 5]
    assert rare
    for i in rare:
        views = [view for j, view in pairs if j == i]
        assert views == [(views[0] + again) % 5 for again in range(len(views))]


def test_evaluation_takes_the_first_view() -> None:
    judged = FeatureEvalLoader(numbered(7, 3), [-1] * 7, CPU, batch_size=3)
    assert shown(list(judged)) == [(i, 0) for i in range(7)]
    assert list(FeatureEvalLoader(numbered(0, 1), [], CPU, batch_size=3)) == []


def test_features_on_disk_are_read_ahead_and_leave_no_thread() -> None:
    num, num_views = 11, 3
    memory = numbered(num, num_views)

    def compute(index: int, column: int) -> np.ndarray:
        return np.array([index, column], np.float16)

    nowhere = OnDisk([[None] * num_views for _ in range(num)], compute)
    disk = Features(memory.views, memory.shape, num, 0, nowhere)
    threads = threading.active_count()
    assert shown(list(loader(disk).epoch(1))) == shown(list(loader(memory).epoch(1)))
    batches = loader(disk).epoch(1)
    next(batches)
    assert threading.active_count() > threads
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
