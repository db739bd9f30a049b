"""Who goes together, by whatever is known of it."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.parts.groups import below_common_folder, group_by, merge
from fieldmark.errors import RecipeError
from fieldmark.types import Sample

NAMES = st.sampled_from(["", "", "g1", "g2", "g3"])


def samples_of(*groups: str) -> list[Sample]:
    return [Sample(f"/d/ants/{i:02d}.jpg", "ants", "", group) for i, group in enumerate(groups)]


def groups_of(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.group for sample in samples]


def test_ties_of_every_kind_connect() -> None:
    """0-1 by a table, 1-2 by a name, 2-3 by their looks: all four are one."""
    samples = samples_of("b", "b", "", "", "", "other")
    merged = merge(samples, [(2, 3)], names=["", "a", "a", "", "", ""])
    assert groups_of(merged) == ["a", "a", "a", "a", "", "other"]


def test_a_set_without_a_name_is_called_after_its_first_path() -> None:
    merged = merge(samples_of("", "", "", ""), [(3, 1), (2,)])
    assert groups_of(merged) == ["", "01.jpg", "", "01.jpg"]
    # Somebody's table calls a group of another picture so.
    merged = merge(samples_of("01.jpg", "", "", ""), [(3, 1)])
    assert groups_of(merged) == ["01.jpg", "01.jpg~", "", "01.jpg~"]


def test_nothing_known_changes_nothing() -> None:
    samples = samples_of("", "x", "")
    assert merge(samples) == tuple(samples)
    assert merge([]) == ()


@given(
    st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=12),
    st.lists(st.lists(st.integers(0, 11), max_size=4), max_size=4),
    st.randoms(use_true_random=False),
)
def test_groups_are_the_connected_parts_in_any_order(
    rows: list[tuple[str, str]], sets: list[list[int]], shuffler: random.Random
) -> None:
    samples = samples_of(*(group for group, _ in rows))
    names = [name for _, name in rows]
    together = [[i for i in positions if i < len(rows)] for positions in sets]
    merged = merge(samples, together, names=names)
    assert [replace(s, group="") for s in merged] == [replace(s, group="") for s in samples]

    # Written the plain way: spread numbers along every tie until nothing changes.
    ties = [set(positions) for positions in together if positions]
    for word in ("g1", "g2", "g3"):
        ties.append({i for i, row in enumerate(rows) if word in row})
    number = list(range(len(rows)))
    for _ in rows:
        for tie in ties:
            for i in tie:
                number[i] = min(number[j] for j in tie)
    parts = defaultdict(set)
    for i in range(len(rows)):
        parts[number[i]].add(i)
    for positions in parts.values():
        called = {merged[i].group for i in positions}
        assert len(called) == 1
        known = sorted({word for i in positions for word in rows[i]} - {""})
        if known:
            assert called == {known[0]}
        else:
            assert (called == {""}) == (len(positions) == 1)
    named = [s.group for s in merged if s.group]
    assert len({*named}) == len({number[i] for i, s in enumerate(merged) if s.group})

    order = list(range(len(rows)))
    shuffler.shuffle(order)
    place = {i: new for new, i in enumerate(order)}
    moved = [[place[i] for i in positions] for positions in together]
    shuffler.shuffle(moved)
    again = merge([samples[i] for i in order], moved, names=[names[i] for i in order])
    assert {s.path: s.group for s in again} == {s.path: s.group for s in merged}


# Regular expressions ------------------------------------------------------------------------------


def on_paths(*paths: str) -> list[Sample]:
    return [Sample(path, "x") for path in paths]


def test_the_first_group_of_the_expression_else_all_of_it() -> None:
    samples = on_paths("/d/a/p1_x.jpg", "/d/b/p1_y.jpg", "/d/a/p2_x.jpg", "/d/a/p2_y.jpg", "/d/b/z")
    for pattern in (r"p\d", r"/(p\d)_(.)", r"(?P<who>p\d)"):
        grouped, notes = group_by(samples, pattern)
        assert groups_of(grouped) == ["p1", "p1", "p2", "p2", ""]
        assert notes == [
            "group_by makes 2 groups of 4 pictures; nothing is found in the paths of 1, "
            "which stand alone."
        ]


@pytest.mark.parametrize(
    ("place", "pattern", "name"),
    [
        ("ants/film12_frame003.jpg", r"(film\d+)_", "film12"),
        ("ants/patient7/left.jpg", r"[^/]+(?=/[^/]+$)", "patient7"),
        ("bees/IMG_20240311_1530.jpg", r"_(\d{8})_", "20240311"),
    ],
)
def test_examples_of_the_docs(place: str, pattern: str, name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "split.md").read_text(encoding="utf-8")
    assert f"| `{place}` | `{pattern}` | `{name}`" in page
    grouped, _ = group_by(on_paths(f"/d/{place}", f"/d/more/{place}", "/d/x.jpg"), pattern)
    assert groups_of(grouped) == [name, name, ""]


def test_an_optional_group_that_is_not_there_finds_nothing() -> None:
    grouped, _ = group_by(on_paths("/d/p1_a", "/d/p1_b", "/d/_c", "/d/_d"), r"(p\d)?_")
    assert groups_of(grouped) == ["p1", "p1", "", ""]


def test_folders_above_the_pictures_are_not_searched() -> None:
    """/home/user7/ has a number as well, and would make one group of everything."""
    samples = on_paths(*(f"/home/user7/{c}/{i}-{j}.jpg" for c in "ab" for i in "12" for j in "34"))
    grouped, notes = group_by(samples, r"\d")
    assert groups_of(grouped) == ["1", "1", "2", "2"] * 2
    assert notes == ["group_by makes 2 groups of 8 pictures."]
    moved = [replace(s, path=f"/elsewhere/9{s.path}") for s in samples]
    assert groups_of(group_by(moved, r"\d")[0]) == groups_of(grouped)


def test_groups_that_were_there_are_joined() -> None:
    samples = [Sample("/1a", "x", "", "film"), Sample("/1b", "x"), Sample("/2c", "x", "", "film")]
    assert groups_of(group_by(samples, r"\d")[0]) == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("film", "finds nothing in any path: no groups are made. It is searched for in paths such "
         "as 'ants/1.jpg'."),
        ("jpg", "puts all pictures into one group, 'jpg'. It is searched for in paths such as "
         "'ants/1.jpg'."),
        (r"\w+/\d", "gives every picture a group of its own."),
    ],
)  # fmt: skip
def test_expressions_that_keep_nothing_apart_are_said(pattern: str, told: str) -> None:
    samples = on_paths("/d/ants/1.jpg", "/d/ants/2.jpg", "/d/bees/1.jpg")
    notes = group_by(samples, pattern)[1]
    assert [note.startswith("WARNING: group_by ") for note in notes] == [True]
    assert told in notes[0]


@pytest.mark.parametrize("pattern", ["(film", "*", "a{99999999999999999999}"])
def test_no_regular_expression(pattern: str) -> None:
    with pytest.raises(RecipeError, match="group_by is no regular expression") as caught:
        group_by(on_paths("/d/a", "/d/b"), pattern)
    assert pattern in str(caught.value)
    assert "for example '(film" in str(caught.value)


def test_below_the_common_folder() -> None:
    assert below_common_folder(["/d/a/1", "/d/b/1", "/d/a/c/2"]) == ["a/1", "b/1", "a/c/2"]
    assert below_common_folder(["/d/a/1"]) == ["1"]
    assert below_common_folder(["digits#1", "digits#2"]) == ["digits#1", "digits#2"]
    assert below_common_folder(["/d/a", "/d/a/b"]) == ["a", "a/b"]
    assert below_common_folder([]) == []
