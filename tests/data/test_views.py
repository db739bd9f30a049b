"""Views: those of a picture are its own, whatever is beside it, and are a training's pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.auto import settle_augment
from fieldmark.data import loader as loader_module
from fieldmark.data.augment.apply import crops_randomly
from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.data.pixels.form import Form, Kind
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import denormalize
from fieldmark.data.views import EXACT, view_batches, view_generator, view_words
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess, Sample
from support.stores import store_of

CPU = Runtime(torch.device("cpu"))
RGB = Preprocess(8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
GREY = Preprocess(8, 1, (0.3,), (0.2,))
NO_MIX: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0}
STRONG = replace(settle_augment(AugmentRecipe(preset="strong")), **NO_MIX)
STANDARD = replace(settle_augment(AugmentRecipe(preset="standard")), rotate_degrees=10.0, **NO_MIX)
WHOLE = replace(STANDARD, crop_scale=(1.0, 1.0))
LIGHT = replace(settle_augment(AugmentRecipe(preset="light")), **NO_MIX)

CASES: list[tuple[Kind, Preprocess, AugmentRecipe]] = [
    ("crops", RGB, STRONG),
    ("crops", GREY, STANDARD),
    ("crops", RGB, LIGHT),
    ("canvas", RGB, STANDARD),
    ("canvas", GREY, STRONG),
    ("exact", RGB, WHOLE),
    ("exact", GREY, WHOLE),
]
NUM = 9


def make_store(kind: Kind, preprocess: Preprocess) -> PixelStore:
    rng = np.random.default_rng(0)
    shapes = {
        "crops": [(12 + i % 3, 16 - i % 4) for i in range(NUM)],
        "canvas": [(12, 12)] * NUM,
        "exact": [(8, 8)] * NUM,
    }[kind]
    pictures = [
        rng.integers(0, 256, (*shape, preprocess.channels), dtype=np.uint8) for shape in shapes
    ]
    samples = [Sample(str(i), "a", "train") for i in range(NUM)]
    store = store_of(samples, Form(kind, preprocess), pictures)
    if kind == "canvas":
        store = replace(store, aspects_n=np.array([(0.5, 1.0, 3.0)[i % 3] for i in range(NUM)]))
    return store


def part_of(store: PixelStore, positions: list[int]) -> PixelStore:
    pictures = list(store.get_many(positions))
    samples = [store.samples[i] for i in positions]
    part = store_of(samples, store.form, pictures)
    return replace(part, aspects_n=store.aspects_n[positions])


def key(position: int) -> str:
    return f"{position:064x}"


def views(
    store: PixelStore,
    wanted: list[tuple[int, int]],
    preprocess: Preprocess,
    augment: AugmentRecipe | None,
    *,
    batch_size: int = 4,
    keys: list[str] | None = None,
) -> list[torch.Tensor]:
    keys = keys or [key(position) for position in range(len(store))]
    batches = list(view_batches(store, keys, wanted, preprocess, augment, CPU, batch_size))
    assert [pair for batch in batches for pair in batch.wanted] == wanted
    assert all(len(batch.images_bchw) == len(batch.wanted) <= batch_size for batch in batches)
    return [image_chw for batch in batches for image_chw in batch.images_bchw]


@pytest.mark.parametrize(("kind", "preprocess", "augment"), CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_a_view_depends_on_its_picture_alone(
    kind: Kind, preprocess: Preprocess, augment: AugmentRecipe, data: st.DataObject
) -> None:
    store = make_store(kind, preprocess)
    everything = [(position, view) for position in range(NUM) for view in range(3)]
    expected = dict(zip(everything, views(store, everything, preprocess, augment), strict=True))
    some = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=12))
    size = data.draw(st.integers(1, 5))
    for pair, image_chw in zip(
        some, views(store, some, preprocess, augment, batch_size=size), strict=True
    ):
        assert torch.equal(image_chw, expected[pair])  # to the bit

    # Without other pictures, at another position.
    positions = data.draw(st.permutations(range(NUM)))[:4]
    left = part_of(store, positions)
    again = views(
        left,
        [(place, 1) for place in range(4)],
        preprocess,
        augment,
        keys=[key(position) for position in positions],
    )
    for position, image_chw in zip(positions, again, strict=True):
        assert torch.equal(image_chw, expected[position, 1])


@pytest.mark.parametrize(("kind", "preprocess", "augment"), CASES)
def test_a_view_is_what_a_training_with_these_draws_shows(
    kind: Kind, preprocess: Preprocess, augment: AugmentRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(kind, preprocess)
    for position, view in ((position, view) for position in range(NUM) for view in (0, 11)):
        alone = part_of(store, [position])
        loader = TrainLoader(alone, [0], preprocess, augment, CPU, batch_size=1, seed=0)
        monkeypatch.setattr(
            loader_module,
            "batch_generator",
            lambda *_, p=position, v=view: view_generator(key(p), v, augment),
        )
        [batch] = loader.epoch(0)
        [image_chw] = views(store, [(position, view)], preprocess, augment)
        assert torch.equal(image_chw, batch.images_bchw[0])


@pytest.mark.parametrize("preprocess", [RGB, GREY, replace(RGB, channel_order="bgr")])
def test_the_exact_view_is_what_evaluation_sees(preprocess: Preprocess) -> None:
    store = make_store("exact", preprocess)
    seen = [
        image_chw
        for batch in EvalLoader(store, [0] * NUM, preprocess, CPU, batch_size=5)
        for image_chw in batch.images_bchw
    ]
    exact = views(store, [(i, EXACT) for i in range(NUM)], preprocess, None)
    beside = views(
        store, [(i // 2, EXACT if i % 2 else 3) for i in range(2 * NUM)], preprocess, WHOLE
    )
    for i in range(NUM):
        assert torch.equal(exact[i], seen[i])
        torch.testing.assert_close(beside[2 * i + 1], seen[i], rtol=1e-6, atol=1e-6)


def test_no_exact_view_comes_out_of_pictures_stored_for_crops() -> None:
    for kind in ("crops", "canvas"):
        with pytest.raises(AssertionError, match=kind):
            views(make_store(kind, RGB), [(0, EXACT)], RGB, STANDARD)


def test_pictures_views_and_words_all_draw_anew() -> None:
    """Flips of one word: a coin for each picture and view, independent of each other."""
    flips = replace(WHOLE, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0))
    flips = replace(flips, rotate_degrees=0.0, erase=0.0, hflip=0.5)
    store = make_store("exact", RGB)
    num_views = 60
    wanted = [(position, view) for position in range(NUM) for view in range(num_views)]
    exact = views(store, [(i, EXACT) for i in range(NUM)], RGB, None)
    drawn = views(store, wanted, RGB, flips, batch_size=64)
    turned = torch.tensor(
        [
            not torch.equal(exact[i], drawn_chw)
            for (i, _), drawn_chw in zip(wanted, drawn, strict=True)
        ]
    ).view(NUM, num_views)
    num, total = int(turned.sum()), turned.numel()
    assert abs(num - total / 2) < 4 * (total / 4) ** 0.5  # 4 standard deviations of a fair coin
    agree = (turned[1:] == turned[:-1]).double().mean()
    assert abs(float(agree) - 0.5) < 4 * (0.25 / turned[1:].numel()) ** 0.5
    assert not turned.all(dim=0).any()  # no view turns all pictures alike


def test_a_random_number_of_a_view_is_uniform() -> None:
    draws = torch.tensor(
        [
            float(torch.rand(1, generator=view_generator(key(i), view, STANDARD)))
            for i in range(40)
            for view in range(25)
        ]
    )
    counts = torch.histc(draws, bins=10, min=0, max=1)
    assert float(((counts - 100) ** 2 / 100).sum()) < 40  # chi-squared, 9 degrees: p < 1e-5


def test_only_words_that_views_follow_change_them() -> None:
    def first(augment: AugmentRecipe) -> float:
        return float(torch.rand(1, generator=view_generator(key(1), 0, augment)))

    same = (replace(STANDARD, preset="none"), replace(STANDARD, mixup=0.3, cutmix=1.0))
    same = (*same, replace(STANDARD, num_ops=5, magnitude=1))  # of a policy that is not taken
    assert STANDARD.policy != "randaugment"
    for augment in same:
        assert first(augment) == first(STANDARD)
    policy = replace(STANDARD, policy="randaugment")
    others = (replace(STANDARD, hflip=0.1), policy, replace(policy, magnitude=1))
    assert len({first(augment) for augment in (STANDARD, *others)}) == 4
    assert set(view_words(policy)) == set(vars(STANDARD)) - {"preset", "mixup", "cutmix"}


def test_views_vary_and_stay_pictures() -> None:
    store = make_store("crops", RGB)
    drawn = views(store, [(0, view) for view in range(12)], RGB, STANDARD)
    assert crops_randomly(STANDARD)
    levels = denormalize(torch.stack(drawn), RGB)
    assert len({bytes(level.numpy().tobytes()) for level in levels}) == 12
    assert all(30 < float(level.float().mean()) < 225 for level in levels)


def test_a_view_comes_once_from_a_streamed_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store("crops", RGB)
    asked: list[int] = []
    real = PixelStore.get_many

    def counting(self: PixelStore, indices: Any) -> Any:
        asked.extend(indices)
        return real(self, indices)

    monkeypatch.setattr(PixelStore, "get_many", counting)
    views(store, [(i, view) for i in range(4) for view in range(3)], RGB, STANDARD, batch_size=6)
    assert sorted(asked) == [0, 1, 2, 3]
