"""Who is trained on, who chooses, who is held back."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.split import split
from fieldmark.errors import RecipeError, SourceError
from fieldmark.types import LeftOut, Part, Sample


def manifest_of(sizes: dict[str, int], parts: dict[str, Part] | None = None) -> Manifest:
    """`sizes` pictures a class; with `parts`, so many in each part: {"train": ..., ...}."""
    samples = tuple(
        Sample(f"/d/{part}/{name}/{i}.jpg", name, part)
        for part in (parts or [""])
        for name, size in sizes.items()
        for i in range(size)
    )
    return Manifest(samples, tuple(sizes), (), (), all_grey=False, typical_side_px=32)


def parts_of(manifest: Manifest) -> dict[str, str]:
    return {sample.path: sample.part for sample in manifest.samples}


def usual(manifest: Manifest, seed: int = 0, **options: object) -> Manifest:
    arguments = {"val_fraction": 0.1, "test_fraction": 0.1, **options}
    return split(manifest, seed=seed, **arguments)


class_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=5).map(
    lambda sizes: {f"c{i}": size for i, size in enumerate([7, *sizes])}
)
fractions = st.floats(0.01, 0.45)


@given(class_sizes, fractions, fractions, st.integers(0, 2**63 - 1))
def test_a_draw_is_complete_disjoint_stratified(
    sizes: dict[str, int], val_fraction: float, test_fraction: float, seed: int
) -> None:
    manifest = manifest_of(sizes)
    result = split(manifest, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert [s.path for s in result.samples] == [s.path for s in manifest.samples]
    assert {s.part for s in result.samples} <= {"train", "val", "test"}
    for name, size in sizes.items():
        val, test = (result.count_by_class(part)[name] for part in ("val", "test"))
        train = result.count_by_class("train")[name]
        if size < 3:
            assert (val, test) == (0, 0)
            assert train == size
        else:
            assert abs(val - size * val_fraction) <= 1
            assert abs(test - size * test_fraction) <= 1
            assert min(train, val, test) >= 1


@given(class_sizes, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_matter(
    sizes: dict[str, int], seed: int, shuffler: random.Random
) -> None:
    manifest = manifest_of(sizes)
    shuffled = list(manifest.samples)
    shuffler.shuffle(shuffled)
    other = replace(manifest, samples=tuple(shuffled))
    limit = len(sizes) + 3
    assert parts_of(usual(manifest, seed)) == parts_of(usual(other, seed))
    limited = parts_of(usual(manifest, seed, train_limit=limit))
    assert limited == parts_of(usual(other, seed, train_limit=limit))


def test_where_the_folder_lies_does_not_matter() -> None:
    manifest = manifest_of({"a": 40, "b": 40})
    moved = replace(
        manifest, samples=tuple(replace(s, path=f"/else{s.path}") for s in manifest.samples)
    )
    expected = {f"/else{path}": part for path, part in parts_of(usual(manifest)).items()}
    assert parts_of(usual(moved)) == expected


def test_parts_are_uniform_over_seeds_also_together() -> None:
    """Pairs of pictures, too: chi-square of who is tested with whom, 45 pairs of one class."""
    manifest = manifest_of({"a": 10, "b": 3})
    pairs = Counter[tuple[str, ...]]()
    for seed in range(1800):
        result = usual(manifest, seed, test_fraction=0.2)
        pairs[tuple(sorted(s.path for s in result.of_part("test") if s.label == "a"))] += 1
    assert len(pairs) == 45
    statistic = sum((count - 40) ** 2 / 40 for count in pairs.values())
    assert 20 < statistic < 80  # 44 degrees of freedom: 44 give or take 9.4, four of them


def test_seeds() -> None:
    manifest = manifest_of({"a": 50, "b": 50})
    draws = {tuple(parts_of(usual(manifest, seed)).values()) for seed in range(20)}
    assert len(draws) == 20
    assert parts_of(usual(manifest, 3)) == parts_of(usual(manifest, 3))


def test_every_picture_has_the_same_chance() -> None:
    """2,000 seeds: each of 20 pictures is in val 100 times out of 1,000 draws, give or take."""
    manifest = manifest_of({"a": 10, "b": 10})
    times = Counter[str]()
    for seed in range(1000):
        times.update(s.path for s in usual(manifest, seed).samples if s.part == "val")
    # Binomial(1000, 0.1): standard deviation 9.5; five of them either way.
    assert all(52 < times[s.path] < 148 for s in manifest.samples)


@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=4),
    fractions,
    fractions,
    st.integers(0, 2**63 - 1),
    st.sampled_from(["new.jpg", "0.jpg", "film/new.jpg", "film/0.jpg", "zzz/deep/1.jpg"]),
)
def test_a_new_picture_leaves_the_others_where_they_are(
    sizes: list[int], val_fraction: float, test_fraction: float, seed: int, name: str
) -> None:
    """One that is removed, too: that is the same two draws in the other order."""
    words = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    manifest = manifest_of({f"c{i}": size for i, size in enumerate(sizes)})
    new = Sample(f"/d//c0/new/{name}", "c0")
    before = parts_of(usual(manifest, seed, **words))
    after = parts_of(usual(replace(manifest, samples=(new, *manifest.samples)), seed, **words))
    moved = [path for path, part in before.items() if after[path] != part]
    assert all("/c0/" in path for path in moved)
    # Two boundaries, and one whose name the new one's makes longer ("0.jpg").
    named_anew = "/0.jpg" in name or name == "0.jpg" or name.endswith("/1.jpg")
    assert len(moved) <= (5 if named_anew else 2)
    if not named_anew:
        parts = [{before[path], after[path]} for path in moved]
        assert {"train", "test"} not in parts, "a picture that was held back is trained on"


def test_what_one_photo_moved_before_there_were_lots() -> None:
    """124 and 121 pictures, as in hymenoptera/train: a permutation moved 40 of 124."""
    many = manifest_of({"a": 125, "b": 121})
    few = replace(many, samples=tuple(s for s in many.samples if s.path != "/d//a/62.jpg"))
    for seed in range(20):
        before, after = parts_of(usual(few, seed)), parts_of(usual(many, seed))
        assert sum(after[path] != part for path, part in before.items()) <= 2


@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_class_does_not_disturb_another(seed: int, size: int) -> None:
    few = manifest_of({"b": 40, "d": 20})
    # Another size, and new classes before, between and after the old ones.
    many = manifest_of({"a": size, "b": 40, "c": size, "d": 33, "e": size})
    ours = {path: part for path, part in parts_of(usual(few, seed)).items() if "/b/" in path}
    assert ours.items() <= parts_of(usual(many, seed)).items()
    limited = [usual(m, seed, train_limit=limit) for m, limit in ((few, 30), (few, 29))]
    trained = [{s.path for s in m.of_part("train")} for m in limited]
    assert trained[0] > trained[1]


@given(st.integers(0, 1000))
def test_a_limit_keeps_the_same_pictures_when_there_is_one_more(seed: int) -> None:
    manifest = manifest_of({"a": 50, "b": 50})
    new = replace(manifest, samples=(*manifest.samples, Sample("/d//a/new.jpg", "a")))
    kept = [{s.path for s in usual(m, seed, train_limit=40).of_part("train")}
            for m in (manifest, new)]  # fmt: skip
    assert len(kept[0] - kept[1]) <= 3  # one more for the other class, one into val


@given(class_sizes, st.integers(0, 1000), st.text("abc/", min_size=1, max_size=20))
def test_a_data_set_may_move(sizes: dict[str, int], seed: int, folder: str) -> None:
    manifest = manifest_of(sizes)
    # Names that recur in folders, and paths that are ends of others.
    deeper = [replace(s, path=f"/d//{s.label}/x/d/{i % 5}.jpg") if i % 7 == 3 else s
              for i, s in enumerate(manifest.samples)]  # fmt: skip
    unlike = {s.path: s for s in deeper}.values()
    here = replace(manifest, samples=tuple(unlike))
    there = tuple(replace(s, path=s.path.replace("/d/", f"/{folder}/", 1)) for s in unlike)
    expected = [s.part for s in usual(here, seed).samples]
    assert [s.part for s in usual(replace(here, samples=there), seed).samples] == expected


@pytest.mark.parametrize(
    ("seed", "options", "val", "test", "train"),
    [
        (0, {}, "a5 a16 a28 b1 c0", "a19 a22 a25 b3 c2", None),
        (12345, {}, "a1 a21 a22 b12 c2", "a15 a25 a26 b11 c3", None),
        (
            0,
            {"train_limit": 12},
            "a5 a16 a28 b1 c0",
            "a19 a22 a25 b3 c2",
            "a9 a11 a12 a13 a14 a20 a26 b0 b2 b5 b7 c3",
        ),
    ],
)
def test_a_draw_is_what_it_always_was(
    seed: int, options: dict[str, int], val: str, test: str, train: str | None
) -> None:
    """The test pictures of old runs stay their test pictures.

    Recorded anew when pictures got lots of their own (lots.py) instead of places in a permutation.
    """
    result = usual(manifest_of({"a": 30, "b": 14, "c": 5}), seed, **options)
    for part, expected in (("val", val), ("test", test), ("train", train)):
        names = " ".join(s.path[4:-4].replace("/", "") for s in result.of_part(part))  # type: ignore[arg-type]
        assert expected in (names, None)


def test_a_group_of_one_is_a_picture_like_any() -> None:
    manifest = manifest_of({"a": 30, "b": 14, "c": 2})
    named = tuple(replace(s, group=f"{s.path[-6]}{i}") for i, s in enumerate(manifest.samples))
    assert parts_of(usual(replace(manifest, samples=named))) == parts_of(usual(manifest))


def test_counts_and_words_of_the_usual_draw() -> None:
    result = usual(manifest_of({"a": 100, "b": 50, "rare": 2}), seed=7)
    assert result.count_by_class("train") == {"a": 80, "b": 40, "rare": 2}
    assert result.count_by_class("val") == {"a": 10, "b": 5, "rare": 0}
    assert result.notes == (
        "Drawn from all pictures, stratified by class: 80/10/10 train/val/test, seed 7.",
        "Fewer than 3 pictures, hence all trained on and never tested: rare.",
        "122 pictures to train on, 15 to choose the best epoch (val), 15 for the final test.",
        "The final test has no picture of rare.",
    )


def test_no_test_part_when_none_is_wanted() -> None:
    result = usual(manifest_of({"a": 20, "b": 20}), test_fraction=0.0)
    assert not result.of_part("test")
    assert len(result.of_part("val")) == 4
    assert "90/10 train/val," in result.notes[0]
    assert result.notes[-1].endswith("no test.")


def test_given_val_is_kept_for_the_final_test() -> None:
    manifest = manifest_of({"a": 30, "b": 20}, {"train": "train", "val": "val"})
    result = usual(manifest)
    assert {s.path for s in result.of_part("test")} == {s.path for s in manifest.of_part("val")}
    assert result.count_by_class("val") == {"a": 3, "b": 2}
    assert all("/train/" in s.path for s in result.of_part("val"))
    assert "val is kept for the final test; validation is drawn from train." in result.notes


def test_val_is_val_and_its_price() -> None:
    manifest = manifest_of({"a": 30, "b": 20}, {"train": "train", "val": "val"})
    result = usual(manifest, val_is_val=True)
    assert parts_of(result) == parts_of(manifest)
    assert "no test part" in result.notes[0]
    assert "optimistic" in result.notes[0]


def test_given_test_and_no_val() -> None:
    manifest = manifest_of({"a": 30, "b": 20}, {"train": "train", "test": "test"})
    result = usual(manifest, test_fraction=0.5)
    assert {s.path for s in result.of_part("test")} == {s.path for s in manifest.of_part("test")}
    assert result.count_by_class("val") == {"a": 3, "b": 2}


@pytest.mark.parametrize("val_is_val", [False, True])
def test_three_given_parts_stay(val_is_val: bool) -> None:
    given = {"train": "train", "val": "val", "test": "test"}
    manifest = manifest_of({"a": 5, "b": 5}, given)
    result = usual(manifest, val_is_val=val_is_val)
    assert parts_of(result) == parts_of(manifest)
    assert result.notes == (
        "10 pictures to train on, 10 to choose the best epoch (val), 10 for the final test.",
    )


def test_a_source_that_is_all_train_is_drawn_from() -> None:
    result = usual(manifest_of({"a": 20, "b": 20}, {"train": "train"}))
    assert len(result.of_part("test")) == 4
    assert result.notes[0].startswith("Drawn from train,")


def test_earlier_notes_and_left_out_are_kept() -> None:
    manifest = replace(manifest_of({"a": 20, "b": 20}), notes=("before",))
    assert usual(manifest).notes[0] == "before"


@given(class_sizes, st.integers(1, 200), st.integers(0, 99))
def test_train_limit_is_stratified_and_touches_train_only(
    sizes: dict[str, int], limit: int, seed: int
) -> None:
    manifest = manifest_of(sizes)
    whole = usual(manifest, seed)
    trained = {name: n for name, n in whole.count_by_class("train").items() if n}
    total = sum(trained.values())
    if limit < min(len(trained), total):
        with pytest.raises(RecipeError, match="one picture a class"):
            usual(manifest, seed, train_limit=limit)
        return
    result = usual(manifest, seed, train_limit=limit)
    for part in ("val", "test"):
        assert result.of_part(part) == whole.of_part(part)
    kept = result.count_by_class("train")
    assert sum(kept.values()) == min(limit, total)
    assert set(result.of_part("train")) <= set(whole.of_part("train"))
    for name, n in trained.items():
        assert 1 <= kept[name] <= n
        # Lower by more only to give a tiny class its one picture.
        assert kept[name] <= n * limit / total + 1 or limit > total
    assert any("train_limit" in note for note in result.notes) == (limit < total)


def test_words_of_the_limit() -> None:
    notes = usual(manifest_of({"a": 1000, "b": 1000}), train_limit=100).notes
    assert (
        "Trained on a stratified draw of 100 of 1,600 training pictures (train_limit); "
        "the other 1,500 are not used." in notes
    )


def test_too_few_pictures() -> None:
    with pytest.raises(SourceError, match="too few pictures") as caught:
        usual(manifest_of({"a": 2, "b": 2}))
    assert "a: 2, b: 2" in str(caught.value)
    assert "at least 3 pictures of a class" in str(caught.value)


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (0.5, 0.5, "nothing to train on"),
        (0.9, 0.3, "nothing to train on"),
        (0.0, 0.1, "set aside to choose the best epoch"),
    ],
)
def test_fractions_that_cannot_be(val: float, test: float, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        usual(manifest_of({"a": 20, "b": 20}), val_fraction=val, test_fraction=test)


def test_val_is_val_needs_a_val() -> None:
    for parts in (None, {"train": "train", "test": "test"}):
        with pytest.raises(RecipeError, match="this source has none") as caught:
            usual(manifest_of({"a": 20, "b": 20}, parts), val_is_val=True)
        assert "leave val_is_val out" in str(caught.value)


def test_one_class_cannot_be_trained_on() -> None:
    one = replace(manifest_of({"a": 20}), notes=("Left out, having no pictures: b.",))
    with pytest.raises(SourceError, match="only one class with pictures, and a classifier") as said:
        usual(replace(one, left_out=(LeftOut("/d/c.jpg", "file is empty"),)))
    assert (
        "20 pictures of a, the first is /d//a/0.jpg. Left out, having no pictures: b. "
        "Left out: /d/c.jpg (file is empty)" in str(said.value)
    )
    assert "one folder, or one label, for each class" in str(said.value)


def test_sources_that_cannot_be_trained_on() -> None:
    with pytest.raises(SourceError, match="nothing to train on"):
        usual(manifest_of({"a": 20, "b": 20}, {"test": "test"}))
    with pytest.raises(SourceError, match="others are not"):
        usual(manifest_of({"a": 20, "b": 20}, {"": "", "train": "train"}))
