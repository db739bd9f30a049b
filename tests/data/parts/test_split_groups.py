"""The draw of parts when pictures belong together."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.split import split
from fieldmark.errors import RecipeError, SourceError
from fieldmark.types import PARTS, Part, Sample

Rows = list[tuple[str, str]]  # (label, group)


def manifest_of(rows: Rows, parts: list[Part] | None = None) -> Manifest:
    samples = tuple(
        Sample(f"/d/{label}/{i:03d}.jpg", label, parts[i] if parts else "", group)
        for i, (label, group) in enumerate(rows)
    )
    names = tuple(sorted({sample.label for sample in samples}))
    return Manifest(samples, names, (), (), all_grey=False, typical_side_px=32)


def usual(manifest: Manifest, seed: int = 0, **options: object) -> Manifest:
    arguments = {"val_fraction": 0.1, "test_fraction": 0.1, **options}
    return split(manifest, seed=seed, **arguments)


def parts_of_groups(manifest: Manifest) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = defaultdict(set)
    for sample in manifest.samples:
        if sample.group:
            parts[sample.group].add(sample.part)
    return parts


def rows_of(sizes: dict[str, list[int]], singles: dict[str, int]) -> Rows:
    """Groups of one class each, of the given sizes, and pictures that stand alone."""
    grouped = [
        (label, f"{label}{i}")
        for label, group_sizes in sizes.items()
        for i, size in enumerate(group_sizes)
        for _ in range(size)
    ]
    return [*grouped, *((label, "") for label, size in singles.items() for _ in range(size))]


fractions = st.floats(0.05, 0.45)
seeds = st.integers(0, 2**63 - 1)
group_sizes = st.lists(st.integers(2, 12), max_size=12)
# Groups across classes, single pictures, and enough of each class for every part.
mixed_rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "", "g1", "g2", "g3", "g4"])),
    max_size=60,
).map(lambda rows: [*rows, *((label, "") for label in "abc" for _ in range(4))])


@given(mixed_rows, fractions, fractions, seeds)
def test_groups_are_whole_also_across_classes(
    rows: Rows, val_fraction: float, test_fraction: float, seed: int
) -> None:
    manifest = manifest_of(rows)
    result = split(manifest, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert [replace(s, part="") for s in result.samples] == list(manifest.samples)
    assert {s.part for s in result.samples} == {*PARTS}
    assert all(len(parts) == 1 for parts in parts_of_groups(result).values())
    assert all(result.count_by_class("train").values()), "a class that train lacks is not learnt"


@given(
    st.tuples(group_sizes, group_sizes), st.tuples(st.integers(3, 40), st.integers(3, 40)),
    fractions, fractions, seeds,
)  # fmt: skip
def test_parts_are_as_near_their_shares_as_groups_allow(
    sizes: tuple[list[int], list[int]],
    singles: tuple[int, int],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> None:
    """Within a picture where single pictures can fill up (2 for every 1 in the largest group are
    always enough), else within the largest group. Train also pays for what the others got, where
    they would have had no picture at all."""
    rows = rows_of(dict(zip("ab", sizes, strict=True)), dict(zip("ab", singles, strict=True)))
    manifest = manifest_of(rows)
    result = split(manifest, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    train_fraction = 1 - val_fraction - test_fraction
    for label, group_sizes_of_class, num_singles in zip("ab", sizes, singles, strict=True):
        total, largest = (
            sum(group_sizes_of_class) + num_singles,
            max(group_sizes_of_class, default=1),
        )
        fills_up = num_singles >= 2 * largest - 2
        for part, fraction in zip(
            PARTS, (train_fraction, val_fraction, test_fraction), strict=True
        ):
            off = abs(result.count_by_class(part)[label] - fraction * total)
            rounding = (
                2 if part == "train" else 1
            )  # val and test may take their one picture from train
            assert off <= (rounding if fills_up else largest) + 1e-6
            assert result.count_by_class(part)[label]


@given(st.lists(st.integers(2, 30), min_size=3, max_size=9), fractions, fractions, seeds)
def test_with_groups_alone_every_part_gets_one_and_none_gets_many_more(
    sizes: list[int], val_fraction: float, test_fraction: float, seed: int
) -> None:
    manifest = manifest_of(rows_of({"a": sizes, "b": [2, 2, 2]}, {}))
    result = split(manifest, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    for part, fraction in (("val", val_fraction), ("test", test_fraction)):
        count = result.count_by_class(part)["a"]  # type: ignore[arg-type]
        assert count > 0
        assert abs(count - fraction * sum(sizes)) <= max(sizes) + 1e-6
    assert result.count_by_class("train")["a"] > 0


@given(mixed_rows, seeds, st.randoms(use_true_random=False))
def test_neither_order_nor_names_nor_place_matter(
    rows: Rows, seed: int, shuffler: random.Random
) -> None:
    manifest = manifest_of(rows)
    expected = {s.path: s.part for s in usual(manifest, seed).samples}
    shuffled = list(manifest.samples)
    shuffler.shuffle(shuffled)
    other = {"": "", "g1": "z", "g2": "x", "g3": "g1", "g4": "4"}
    renamed = [replace(s, path=f"/else{s.path}", group=other[s.group]) for s in shuffled]
    result = usual(replace(manifest, samples=tuple(renamed)), seed)
    assert {s.path.removeprefix("/else"): s.part for s in result.samples} == expected


def test_a_new_picture_moves_few_groups() -> None:
    """Where groups go depends on what is lacked, so one may push another; most stay."""
    sizes = {label: [6, 5, 5, 4, 4, 3, 3, 2, 2, 2, 2, 2] for label in "ab"}
    rows = rows_of(sizes, {"a": 30, "b": 30})
    moved_groups, moved = [], []
    for seed in range(50):
        few = usual(manifest_of(rows), seed)
        many = usual(manifest_of([*rows, ("a", "")]), seed)
        before, after = parts_of_groups(few), parts_of_groups(many)
        moved_groups.append(sum(after[name] != part for name, part in before.items()))
        after_of = {s.path: s.part for s in many.samples}
        moved.append(sum(after_of[s.path] != s.part for s in few.samples))
    assert np.mean(moved_groups) < 1  # of 24
    assert np.mean(moved) < 5  # of 140
    assert np.median(moved) <= 2


def test_every_group_has_its_chance_to_be_tested_also_the_largest() -> None:
    """A patient with many pictures is not always trained on."""
    sizes = {"a": [12, 10, 8, 6, 5, 4, 4, 3, 2, 2], "b": [11, 9, 7, 6, 5, 4, 4, 3, 2, 2]}
    manifest = manifest_of(rows_of(sizes, {}))
    times = Counter[str]()
    for seed in range(300):
        result = split(manifest, val_fraction=0.25, test_fraction=0.25, seed=seed)
        times.update({s.group for s in result.of_part("test")})
    # A quarter of 300 is 75: far from it for nobody, though what fills up is tested more often.
    assert min(times.values()) > 30
    assert len(times) == 20


@given(mixed_rows, seeds, st.integers(3, 60))
def test_train_limit_leaves_groups_whole_in_val_and_test(rows: Rows, seed: int, limit: int) -> None:
    manifest = manifest_of(rows)
    whole, limited = usual(manifest, seed), usual(manifest, seed, train_limit=limit)
    for part in ("val", "test"):
        assert limited.of_part(part) == whole.of_part(part)  # type: ignore[arg-type]
    assert {*limited.of_part("train")} <= {*whole.of_part("train")}
    assert all(len(parts) == 1 for parts in parts_of_groups(limited).values())


def test_words() -> None:
    manifest = manifest_of(rows_of({"a": [6, 4, 4], "b": [5]}, {"a": 46, "b": 1, "c": 30}))
    assert usual(manifest).notes == (
        "Drawn from all pictures, stratified by class: 80/10/10 train/val/test, seed 0.",
        "Kept together: 4 groups of 19 pictures, the largest of 6.",
        "Fewer than 3 groups or pictures that stand alone, hence trained on and not tested: b.",
        "78 pictures to train on, 9 to choose the best epoch (val), 9 for the final test.",
        "The final test has no picture of b.",
    )


def test_one_huge_group_leaves_nothing_to_draw() -> None:
    manifest = manifest_of([("ab"[i % 2], "film" if i < 30 else "") for i in range(34)])
    result = usual(manifest)  # 2 of each class stand alone: one in val, one in test
    assert len(result.of_part("train")) == 30
    manifest = manifest_of([("ab"[i % 2], "film") for i in range(34)])
    with pytest.raises(SourceError, match="too few groups: none is left to choose") as caught:
        usual(manifest)
    for words in ("34 pictures, of which 34 are one group, 'film'; groups: 1", "group_by"):
        assert words in str(caught.value)


# Parts that the source gives ----------------------------------------------------------------------


def test_a_group_across_given_parts_is_said_and_nothing_is_moved() -> None:
    parts: list[Part] = ["train"] * 10 + ["val"] * 4 + ["test"] * 4
    rows = [("ab"[i % 2], "") for i in range(18)]
    for i, group in ((0, "x"), (12, "x"), (1, "y"), (15, "y"), (2, "ok"), (3, "ok"), (4, "z")):
        rows[i] = (rows[i][0], group)
    rows[13], rows[16] = (rows[13][0], "z"), (rows[16][0], "z")
    result = usual(manifest_of(rows, parts))
    assert [s.part for s in result.samples] == parts
    (note,) = (note for note in result.notes if note.startswith("WARNING"))
    for words in (
        "1 group in train and val, for example 'x'",
        "1 group in train and test, for example 'y'",
        "1 group in train and val and test, for example 'z'",
        "Nothing was moved",
        "--redraw",
    ):
        assert words in note


def test_val_drawn_from_train_keeps_groups_whole_and_tells_of_kin_in_the_test() -> None:
    parts: list[Part] = ["train"] * 40 + ["test"] * 10
    rows = [("ab"[i % 2], f"g{i // 4}" if i < 40 else "") for i in range(50)]
    result = usual(manifest_of(rows, parts))
    assert not [note for note in result.notes if note.startswith("WARNING")]
    assert all(len(parts) == 1 for parts in parts_of_groups(result).values())
    rows[45] = ("b", "g3")
    result = usual(manifest_of(rows, parts))
    assert [s.part for s in result.samples if s.group == "g3"][-1] == "test"
    assert any("1 group in" in note and "and test, for example 'g3'" in note
               for note in result.notes)  # fmt: skip


def test_no_val_where_none_is_needed() -> None:
    manifest = manifest_of([("ab"[i % 2], f"g{i // 4}") for i in range(40)])
    result = usual(manifest, val_fraction=0.0, test_fraction=0.2, needs_val=False)
    assert [len(result.of_part(part)) for part in PARTS] == [32, 0, 8]
    assert "80/20 train/test" in result.notes[0]
    assert "no val" in result.notes[-1]
    for fractions in ((0.0, 0.0), (-0.1, 0.5), (0.5, 0.5)):
        with pytest.raises(RecipeError, match="these fractions"):
            usual(manifest, val_fraction=fractions[0], test_fraction=fractions[1], needs_val=False)
