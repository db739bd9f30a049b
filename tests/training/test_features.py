"""Features computed once: what a second run finds, what a change costs, what a stop leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.auto import settle_augment
from fieldmark.data.contents import Content, contents_of
from fieldmark.data.features.form import FeatureForm, size_of
from fieldmark.data.features.store import Features, OnDisk
from fieldmark.data.pixels import packs
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import normalize
from fieldmark.data.views import EXACT, view_batches
from fieldmark.errors import OutputError, RecipeError, TrainingError
from fieldmark.progress import Silent
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.training.features import (
    compute_features,
    features_shape,
    keys_of,
    where_features_go,
)
from fieldmark.types import Preprocess, Sample
from support.stores import store_of

CPU = Runtime(torch.device("cpu"))
RGB = Preprocess(8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_fraction=1.0)
GREY = Preprocess(8, 1, (0.5,), (0.2,))
AUGMENT = replace(settle_augment(AugmentRecipe(preset="standard")), mixup=0.0, cutmix=0.0)
NUM = 7


class Lower:
    """A frozen part whose numbers depend on nothing but the picture, to the bit; counts those that
    differ."""

    def __init__(self, stop_after: float = float("inf")) -> None:
        self.num_seen, self.stop_after = 0, stop_after

    def __call__(self, images_bchw: torch.Tensor) -> torch.Tensor:
        if self.num_seen >= self.stop_after:
            raise KeyboardInterrupt
        assert torch.is_inference_mode_enabled()
        self.num_seen += len(images_bchw.unique(dim=0))
        return images_bchw[:, :, ::2, 1::2] * 2 + 1


class Telling(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.counted = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.counted += count


def make_form(preprocess: Preprocess = RGB, **words: Any) -> FeatureForm:
    augment = words.get("augment")
    pixels = Form("exact" if augment is None else "crops", preprocess)
    return FeatureForm("w" * 64, {"name": "tiny"}, "body", pixels, preprocess, **words)


def make_store(form: FeatureForm, num: int = NUM) -> PixelStore:
    rng = np.random.default_rng(0)
    shapes = [(8, 8) if form.augment is None else (12 + i % 3, 14) for i in range(num)]
    channels = form.preprocess.channels
    pictures = [rng.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in shapes]
    return store_of([Sample(str(i), "a", "train") for i in range(num)], form.pixels, pictures)


def make_contents(num: int = NUM) -> list[Content | None]:
    return [Content(f"{i:064x}", "") for i in range(num)]


def compute(
    form: FeatureForm,
    cache: PixelCache | None,
    views: Sequence[int] = (EXACT,),
    lower: Any = None,
    **words: Any,
) -> Features:
    words = {"batch_size": 4, "progress": Silent(), "title": "features"} | words
    store = words.pop("store") if "store" in words else make_store(form)
    contents = words.pop("contents") if "contents" in words else make_contents(len(store))
    return compute_features(store, contents, views, lower or Lower(), form, cache, CPU, **words)


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(tmp_path / "pixels")


def part_of(store: PixelStore, positions: Sequence[int]) -> PixelStore:
    samples = [store.samples[i] for i in positions]
    return store_of(samples, store.form, list(store.get_many(positions)))


@pytest.mark.parametrize("preprocess", [RGB, GREY])
def test_features_are_what_the_lower_part_makes_of_the_pictures(preprocess: Preprocess) -> None:
    form = make_form(preprocess)
    store = make_store(form)
    features = compute(form, None, store=store)
    with torch.inference_mode():
        images_nchw = normalize(store.stack(range(NUM)), preprocess)
        expected = Lower()(images_nchw)
    assert features.values.shape == (NUM, 1, preprocess.channels, 4, 4)
    assert features.values.dtype == torch.float32
    assert torch.equal(features.values[:, 0], expected)
    assert features_shape(Lower(), preprocess, CPU) == features.shape == expected.shape[1:]
    assert size_of(NUM, 1, features.shape, "float32") == features.values.nbytes


@settings(max_examples=25)
@given(
    runs=st.lists(
        st.tuples(st.sets(st.integers(0, NUM - 1)), st.sets(st.integers(0, 3), min_size=1)),
        max_size=3,
    ),
    kept=st.sampled_from(["float32", "float16"]),
    per_pack=st.integers(1, 9),
    on_disk=st.booleans(),
)
def test_whatever_is_there_already_all_comes_out_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[set[int], set[int]]],
    kept: Any,
    per_pack: int,
    on_disk: bool,
) -> None:
    form = make_form(augment=AUGMENT, kept=kept)
    store, contents = make_store(form), make_contents()
    cache = PixelCache(tmp_path_factory.mktemp("c"))
    views = (2, 0, 1)
    fresh = compute(form, None, views)
    there: set[tuple[int, int]] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "PACK_PICTURES", per_pack)
        for positions, some in runs:
            lower = Lower()
            part = part_of(store, sorted(positions))
            keys = [contents[i] for i in sorted(positions)]
            compute(form, cache, sorted(some), lower, store=part, contents=keys)
            new = {(i, view) for i in positions for view in some} - there
            # One more: a black picture tells the shape, where nothing was found.
            assert lower.num_seen - len(new) in (0, 1)
            there |= new
        lower, telling = Lower(), Telling()
        memory = 0 if on_disk else None
        features = compute(form, cache, views, lower, memory_bytes=memory, progress=telling)
        num_there = len({(i, view) for i, view in there if view in views})
        assert features.num_found == num_there
        assert telling.counted == 3 * NUM - num_there
        assert lower.num_seen - telling.counted in (0, 1)
        assert isinstance(features.holder, OnDisk) == on_disk
        assert torch.equal(features.values, fresh.values)
        again = Lower()
        second = compute(form, cache, views, again, memory_bytes=memory)
    assert again.num_seen == 0
    assert second.num_found == 3 * NUM
    assert torch.equal(second.values, fresh.values)


def test_sixteen_bits_are_rounded_once_and_take_half(tmp_path: Path) -> None:
    full, half = make_form(), make_form(kept="float16")
    caches = [PixelCache(tmp_path / form.kept) for form in (full, half)]
    fresh = compute(full, caches[0])
    rounded = compute(half, caches[1])
    assert not torch.equal(fresh.values, rounded.values)
    assert torch.equal(fresh.values.half().float(), rounded.values)
    assert torch.equal(compute(half, caches[1]).values, rounded.values)
    assert caches[0].num_bytes - caches[1].num_bytes == fresh.values.nbytes // 2


def test_what_does_not_fit_into_sixteen_bits_is_said(cache: PixelCache) -> None:
    def large(images_bchw: torch.Tensor) -> torch.Tensor:
        return images_bchw * 1e6

    with pytest.raises(TrainingError, match=r"(?s)too large for 16 bits.*body.*keep float32"):
        compute(make_form(kept="float16"), cache, lower=large)
    assert compute(make_form(), None, lower=large).values.abs().max() > 65504


def test_a_picture_that_is_left_alone_has_the_numbers_it_has_in_a_batch(cache: PixelCache) -> None:
    """As of mobilenetv2 on a CPU, which sums up otherwise for one picture (2e-7 of the largest)."""

    def lower(images_bchw: torch.Tensor) -> torch.Tensor:
        return images_bchw.flatten(1) + (len(images_bchw) == 1)

    form = make_form()
    at_once = compute(form, None, lower=lower, batch_size=NUM).values
    assert torch.equal(compute(form, None, lower=lower, batch_size=NUM - 1).values, at_once)
    assert torch.equal(compute(form, None, lower=lower, batch_size=1).values, at_once)
    on_disk = compute(form, cache, lower=lower, memory_bytes=0)
    for pack in cache.root.rglob(f"*{packs.SUFFIX}"):
        pack.unlink()
    assert torch.equal(on_disk.values, at_once)


def test_mixed_precision_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(5, 192)
    dtypes = []

    def linear(images_bchw: torch.Tensor) -> torch.Tensor:
        out = torch.nn.functional.linear(images_bchw.flatten(1), weight)
        dtypes.append(out.dtype)
        return out

    runtime = Runtime(torch.device("cpu"), torch.bfloat16)
    form = make_form()
    words: dict[str, Any] = {"batch_size": 4, "progress": Silent(), "title": ""}
    features = compute_features(
        make_store(form), make_contents(), [EXACT], linear, form, None, runtime, **words
    )
    assert set(dtypes) == {torch.bfloat16}
    assert features.values.dtype == torch.float32


# What a change, a stop and other processes cost ---------------------------------------------------


def test_a_changed_picture_costs_only_itself(tmp_path: Path, cache: PixelCache) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8)).save(folder / f"{i}.png")

    def run() -> tuple[int, Features, list[str]]:
        paths = sorted(map(str, folder.iterdir()))
        contents = contents_of(paths, Silent())
        samples = [Sample(path, "a", "train") for path in paths]
        words: dict[str, Any] = {"strict": True, "title": "", "progress": Silent()}
        store = build_store(samples, form.pixels, cache=cache, contents=contents, **words)
        lower = Lower()
        features = compute(form, cache, (0, 1), lower, store=store, contents=contents)
        return lower.num_seen, features, paths

    form = make_form(augment=AUGMENT)
    _, before, _ = run()
    Image.new("RGB", (10, 10), "red").save(folder / "2.png")  # changed
    Image.new("RGB", (10, 10), "blue").save(folder / "new.png")  # added
    (folder / "4.png").unlink()  # removed
    (folder / "0.png").rename(folder / "renamed.png")
    num_seen, after, paths = run()
    assert num_seen == 2 * 2
    assert after.num_found == 2 * 4
    row = {Path(path).name: i for i, path in enumerate(paths)}
    for name, old in (("1.png", 1), ("3.png", 3), ("5.png", 5), ("renamed.png", 0)):
        assert torch.equal(after.values[row[name]], before.values[old])


def test_copies_are_computed_once(cache: PixelCache) -> None:
    form, lower = make_form(augment=AUGMENT), Lower()
    store = part_of(make_store(form), [0, 1, 0, 0])
    contents = [make_contents()[i] for i in (0, 1, 0, 0)]
    features = compute(form, cache, (0, 1), lower, store=store, contents=contents)
    assert lower.num_seen == 4 + 1
    assert torch.equal(features.values[0], features.values[2])
    assert not torch.equal(features.values[0], features.values[1])
    assert compute(form, cache, (0, 1), store=store, contents=contents).num_found == 8


def test_what_was_computed_before_a_stop_is_kept(cache: PixelCache) -> None:
    form = make_form(augment=AUGMENT)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        compute(form, cache, range(3), Lower(stop_after=9))  # 1, and two batches of 4
    assert threading.active_count() == threads
    assert not list(cache.root.rglob(f"*{packs.UNSEALED}"))
    lower = Lower()
    features = compute(form, cache, range(3), lower)
    assert features.num_found == 8
    assert lower.num_seen == 3 * NUM - 8
    assert torch.equal(features.values, compute(form, None, range(3)).values)


def test_what_a_crash_leaves_is_not_read(cache: PixelCache) -> None:
    form = make_form()
    compute(form, cache)
    [pack] = cache.root.rglob(f"*{packs.SUFFIX}")
    pack.rename(pack.with_suffix(packs.UNSEALED))
    assert compute(form, cache).num_found == 0
    [pack] = cache.root.rglob(f"*{packs.SUFFIX}")
    pack.write_bytes(pack.read_bytes()[:-1])  # cut short
    features = compute(form, cache)
    assert features.num_found == 0
    assert torch.equal(features.values, compute(form, None).values)


def test_of_two_runs_one_computes_and_both_read(cache: PixelCache) -> None:
    form = make_form()
    inside, go_on = threading.Event(), threading.Event()
    lowers = [Lower(), Lower()]
    telling = Telling()
    results: list[Features] = []

    def slow(images_bchw: torch.Tensor) -> torch.Tensor:
        inside.set()
        go_on.wait(20)
        return lowers[0](images_bchw)

    def run(lower: Any) -> None:
        results.append(compute(form, cache, lower=lower, progress=telling))

    first = threading.Thread(target=run, args=(slow,))
    second = threading.Thread(target=run, args=(lowers[1],))
    first.start()
    assert inside.wait(20)
    second.start()
    for _ in range(200):
        if telling.said:
            break
        time.sleep(0.05)
    go_on.set()
    first.join(20)
    second.join(20)
    said = "another Fieldmark is computing these features; waiting for it"
    assert telling.said == [said]
    assert (lowers[0].num_seen, lowers[1].num_seen) == (NUM + 1, 0)
    assert torch.equal(results[0].values, results[1].values)


def test_a_file_replaced_after_it_was_hashed_is_not_kept_under_its_old_key(
    tmp_path: Path, cache: PixelCache
) -> None:
    form = make_form()
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, 9, 9)).save(path)
    contents = contents_of([str(path) for path in paths], Silent())
    store = part_of(make_store(form), [0, 1])
    store = replace(store, samples=tuple(Sample(str(path), "a") for path in paths))
    Image.new("RGB", (9, 8), "red").save(paths[0])
    compute(form, cache, store=store, contents=contents)
    assert compute(form, cache, store=store, contents=contents).num_found == 1


def test_a_file_that_could_not_be_hashed_has_views_all_the_same(cache: PixelCache) -> None:
    form = make_form(augment=AUGMENT)
    store = make_store(form)
    unknown: list[Content | None] = [None, *make_contents()[1:]]
    keys = keys_of(store, unknown)
    assert len(set(keys)) == NUM
    assert keys[1:] == [content.key for content in make_contents()[1:] if content]
    first = compute(form, cache, (0,), store=store, contents=unknown)
    second = compute(form, cache, (0,), store=store, contents=unknown)
    assert second.num_found == NUM - 1
    assert torch.equal(first.values, second.values)


# Where they go, and how large it gets -------------------------------------------------------------


def test_what_is_too_large_for_memory_is_read_from_disk(cache: PixelCache) -> None:
    form = make_form(augment=AUGMENT)
    features = compute(form, cache, range(2), memory_bytes=0)
    expected = compute(form, None, range(2)).values
    assert isinstance(features.holder, OnDisk)
    assert torch.equal(features.take([5, 0, 5], [1, 0, 0]), expected[[5, 0, 5], [1, 0, 0]])
    cache.clear()  # by another process
    assert torch.equal(features.values, expected)
    assert cache.num_bytes == 0


def test_what_fits_nowhere_is_said_before_the_work(cache: PixelCache) -> None:
    form, lower = make_form(), Lower()
    num_bytes = size_of(NUM, 1, (3, 4, 4), "float32")
    cache.set_limit(num_bytes - 1)
    assert where_features_go(num_bytes, cache, memory_bytes=num_bytes) == "memory"
    assert where_features_go(num_bytes, cache, memory_bytes=num_bytes - 1) == "nowhere"
    assert where_features_go(num_bytes - 1, cache, memory_bytes=1) == "disk"
    assert where_features_go(num_bytes, None, memory_bytes=1) == "nowhere"
    assert where_features_go(num_bytes, None) == "memory"
    text = r"(?s)too large to be kept.*7 pictures x 1 views x 3 x 4 x 4.*--views"
    for where in (cache, None):
        with pytest.raises(RecipeError, match=text):
            compute(form, where, lower=lower, memory_bytes=1)
    assert lower.num_seen == 2  # black ones
    assert cache.num_bytes == 0


def test_the_limit_of_the_cache_is_kept(cache: PixelCache) -> None:
    form = make_form()
    cache.set_limit(100)
    telling = Telling()
    features = compute(form, cache, progress=telling)
    assert torch.equal(features.values, compute(form, None).values)
    assert cache.num_bytes == 0
    assert ["no room for" in line for line in telling.said] == [True]

    # What was not used for longest makes room, pictures or features.
    cache.set_limit(10**6)
    old = packs.PackWriter(cache.folder(form.pixels), 1)
    old.add_tensor("0" * 64, 1.0, np.zeros((900, 900, 1), np.uint8))
    old.seal()
    assert cache.num_bytes > 8 * 10**5
    cache.set_limit(cache.num_bytes + 100)
    compute(form, cache)
    assert not list(cache.folder(form.pixels).glob(f"*{packs.SUFFIX}"))
    assert compute(form, cache).num_found == NUM


def test_listing_and_clearing(cache: PixelCache) -> None:
    compute(make_form(), cache)
    compute(make_form(augment=AUGMENT), cache, range(3))
    kept = cache.list_kept()
    assert {item.num_pictures for item in kept} == {NUM, 3 * NUM}
    for item in kept:
        assert item.folder.name.startswith("features-8px-")
        assert [item.about[word] for word in ("kind", "network", "boundary")] == [
            "features",
            "tiny",
            "body",
        ]
    assert cache.clear() > 0
    assert (cache.list_kept(), cache.num_bytes) == ([], 0)


def test_a_disk_that_fills_up_costs_only_the_next_run(
    cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packs.PackWriter.add_tensor
    written = 0

    def fill_up(writer: Any, *words: Any) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise OutputError("features cannot be written: no space left", fix="make room")
        real(writer, *words)

    monkeypatch.setattr(packs.PackWriter, "add_tensor", fill_up)
    form, telling = make_form(), Telling()
    features = compute(form, cache, progress=telling)
    assert torch.equal(features.values, compute(form, None).values)
    assert telling.said == [
        "features cannot be written: no space left; the next run computes these features again"
    ]
    assert not list(cache.root.rglob("pack-*"))
    written = 0
    with pytest.raises(OutputError, match="no space left"):
        compute(form, cache, memory_bytes=0)


def test_an_empty_part_has_no_features(cache: PixelCache) -> None:
    form = make_form()
    features = compute(form, cache, store=make_store(form, 0), contents=[])
    assert features.values.shape == (0, 1, 3, 4, 4)
    assert len(features) == features.num_found == 0


def test_another_seed_or_batch_size_finds_the_same(cache: PixelCache) -> None:
    form = make_form(augment=AUGMENT)
    first = compute(form, cache, range(2), batch_size=3)
    torch.manual_seed(77)
    second = compute(form, cache, range(2), batch_size=5)
    assert second.num_found == 2 * NUM
    fresh = compute(form, None, range(2), batch_size=5)
    assert torch.equal(fresh.values, first.values)
    keys = keys_of(make_store(form), make_contents())
    wanted = [(3, 1)]
    [batch] = view_batches(make_store(form), keys, wanted, RGB, AUGMENT, CPU, 1)
    with torch.inference_mode():
        assert torch.equal(Lower()(batch.images_bchw)[0], first.values[3, 1])
