"""Films are drawn whole wherever that can be; where not, what is parted is counted."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.check.copies import Copies
from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.chains import MIN_CHAIN, Together, cut_chain, keep_together
from fieldmark.data.parts.groups import merge
from fieldmark.data.parts.split import shares_to_draw, split
from fieldmark.types import Sample

SHARES = (0.8, 0.1, 0.1)


def photos(label: str, number: int) -> list[Sample]:
    return [Sample(f"/d/{label}/{i:03d}.jpg", label) for i in range(number)]


def frames(label: str, name: str, number: int) -> list[Sample]:
    return [Sample(f"/d/{label}/{name}-{i:03d}.jpg", label) for i in range(number)]


def copies_of(samples: Sequence[Sample], reach: int) -> Copies:
    """Frames of one name are nearly alike as long as they are no further apart than `reach`."""
    near: dict[int, tuple[int, ...]] = {}
    names = [sample.path.rpartition("-") for sample in samples]
    for i, (film, _, number) in enumerate(names):
        others = (
            j
            for j, (other, _, at) in enumerate(names)
            if film and other == film and 0 < abs(int(at[:3]) - int(number[:3])) <= reach
        )
        if some := tuple(others):
            near[i] = some
    return Copies(tuple((i,) for i in range(len(samples))), near, 0, 0)


def drawn(samples: Sequence[Sample], found: Together, seed: int = 0) -> Sequence[Sample]:
    names = tuple(sorted({sample.label for sample in samples}))
    merged = merge(samples, found.groups)
    manifest = Manifest(merged, names, (), (), all_grey=False, typical_side_px=32)
    return split(manifest, val_fraction=0.1, test_fraction=0.1, seed=seed).samples


def apart(samples: Sequence[Sample], near: Mapping[int, Sequence[int]]) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i, others in near.items()
        for j in others
        if i < j and samples[i].part != samples[j].part
    }


films = st.lists(st.tuples(st.sampled_from("ab"), st.integers(2, 60)), max_size=4)


@given(films, st.tuples(*(st.integers(0, 60),) * 2), st.integers(1, 6), st.integers(0, 99))
def test_no_near_pair_is_in_two_parts_unless_it_was_told(
    lengths: list[tuple[str, int]], singles: tuple[int, int], reach: int, seed: int
) -> None:
    samples = [
        s for label, number in zip("ab", singles, strict=True) for s in photos(label, number)
    ]
    for number, (label, length) in enumerate(lengths):
        samples += frames(label, f"film{number}", length)
    samples += [*photos("c", 20), *photos("d", 3)]  # enough to draw every part
    copies = copies_of(samples, reach)
    found = keep_together(samples, copies, SHARES)
    assert apart(drawn(samples, found, seed), copies.near) <= {*found.parted}
    for label in "ab":
        long = [n for other, n in lengths if other == label and n > MIN_CHAIN]
        size = sum(sample.label == label for sample in samples)
        units = singles["ab".index(label)] + sum(other == label for other, _ in lengths)
        if units >= 3 and all(n <= 0.8 * size for n in long):
            assert not any(samples[i].label == label for i, _ in found.parted)


def test_a_film_among_photos_is_whole() -> None:
    samples = [*photos("ants", 122), *photos("bees", 121), *frames("ants", "film", 30)]
    found = keep_together(samples, copies_of(samples, 3), SHARES)
    assert found == Together((tuple(range(243, 273)),))


def test_a_class_that_is_one_film_is_cut_at_few_ties() -> None:
    samples = [*frames("ants", "film", 40), *photos("bees", 40)]
    copies = copies_of(samples, 3)
    found = keep_together(samples, copies, SHARES)
    assert found.chains == (tuple(range(40)),)
    assert {i for group in found.groups for i in group} <= {*range(40)}
    assert max(map(len, found.groups)) <= 4
    # Between two neighbours of three ties each are 6; 40 frames in pieces of 2 have 19 such places.
    assert len(found.parted) < 100
    parts = [{s.part for s in drawn(samples, found, seed)[:40]} for seed in range(5)]
    assert parts == [{"train", "val", "test"}] * 5
    lost = [len(apart(drawn(samples, found, seed), copies.near)) for seed in range(20)]
    assert 0 < max(lost) <= 4 * 6  # val and test are a piece or two each, with two ends


def test_two_scenes_are_parted_where_few_frames_tie_them() -> None:
    """A dozen frames each way, all alike, and one tie between the last and the first."""
    samples = frames("ants", "film", 24)
    near = {i: tuple(j for j in range(24) if j != i and j // 12 == i // 12) for i in range(24)}
    near[11], near[12] = (*near[11], 12), (11, *near[12])
    copies = Copies(tuple((i,) for i in range(24)), near, 0, 0)
    pieces = cut_chain(range(24), copies, {i: i for i in range(24)}, samples, 12)
    assert sorted(pieces) == [tuple(range(12)), tuple(range(12, 24))]


def test_of_two_films_that_are_a_class_one_is_cut() -> None:
    samples = [*frames("ants", "a", 20), *frames("ants", "b", 25), *photos("bees", 40)]
    found = keep_together(samples, copies_of(samples, 3), SHARES)
    assert found.chains == (tuple(range(20, 45)),)
    assert tuple(range(20)) in found.groups


def test_copies_of_one_picture_are_never_parted_however_many() -> None:
    samples = [*frames("ants", "copy", 40), *photos("bees", 40)]
    found = keep_together(samples, copies_of(samples, 40), SHARES)
    assert found == Together((tuple(range(40)),))


def test_identical_pictures_stay_in_one_piece() -> None:
    samples = [*frames("ants", "film", 40), *photos("bees", 40)]
    one = copies_of(samples[:20], 2)
    nodes = (*((i, i + 20) for i in range(20)), *((i,) for i in range(40, 80)))
    found = keep_together(samples, Copies(nodes, one.near, 0, 0), SHARES)
    group_of = {i: group for group in found.groups for i in group}
    assert found.chains
    assert all(group_of[i] == group_of[i + 20] for i in range(20))


def test_what_a_table_calls_a_group_is_whole_whatever_follows() -> None:
    samples = [replace(s, group="film") for s in frames("ants", "film", 40)]
    samples += photos("bees", 40)
    assert keep_together(samples, copies_of(samples, 3), SHARES) == Together((tuple(range(40)),))


def test_where_nothing_is_drawn_nothing_is_cut() -> None:
    samples = [*frames("ants", "film", 40), *photos("bees", 40)]
    assert keep_together(samples, copies_of(samples, 3), ()) == Together((tuple(range(40)),))
    tested = [replace(s, part="test") for s in samples]
    more = [*tested, *(replace(s, part="train", path=f"{s.path}2") for s in photos("ants", 40))]
    found = keep_together(more, copies_of(more, 3), SHARES)
    assert found == Together((tuple(range(40)),))


@given(st.randoms(use_true_random=False), st.integers(11, 60), st.integers(1, 5))
def test_the_order_of_the_pictures_makes_no_difference(
    shuffler: random.Random, length: int, reach: int
) -> None:
    samples = [*frames("ants", "film", length), *photos("bees", 20)]

    def groups(some: Sequence[Sample]) -> set[frozenset[str]]:
        found = keep_together(some, copies_of(some, reach), SHARES)
        return {frozenset(some[i].path for i in group) for group in found.groups}

    shuffled = samples[:]
    shuffler.shuffle(shuffled)
    assert groups(shuffled) == groups(samples)


def test_shares_are_of_what_split_would_draw() -> None:
    fractions = {"val_fraction": 0.1, "test_fraction": 0.2}
    here = photos("a", 3)

    def given_parts(*parts: str) -> list[Sample]:
        return [replace(s, part=part) for s, part in zip(here, parts, strict=True)]  # type: ignore

    assert [round(x, 9) for x in shares_to_draw(here, **fractions)] == [0.7, 0.1, 0.2]
    for parts in (("train", "train", "test"), ("train", "train", "val")):
        assert shares_to_draw(given_parts(*parts), **fractions) == (0.9, 0.1, 0.0)
    assert shares_to_draw(given_parts("train", "val", "test"), **fractions) == ()
    assert shares_to_draw(given_parts("train", "train", "val"), val_is_val=True, **fractions) == ()
