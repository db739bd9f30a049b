"""Random numbers that belong to pictures."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.parts.lots import Lots, number_of, own_names
from fieldmark.types import Sample

words = st.sampled_from(["a", "b", "c"])
paths = st.lists(
    st.lists(words, min_size=1, max_size=4).map("/".join), min_size=2, max_size=30, unique=True
)


def test_names_are_as_short_as_tells_them_apart() -> None:
    folder = f"{os.sep}photos{os.sep}ants{os.sep}"
    places = ["1.jpg", "2.jpg", "film2/1.jpg", "film3/2/x.png"]
    names = own_names([folder + place.replace("/", os.sep) for place in places])
    assert names == ["1.jpg", "2.jpg", "film2/1.jpg", "x.png"]
    assert own_names([]) == []
    assert own_names(["digits#1"]) == ["digits#1"]
    assert own_names(["a/1.jpg", "a/1.jpg"]) == ["1.jpg", "1.jpg"]


@given(paths)
def test_names_differ_and_are_ends_and_do_not_show_the_folder(places: list[str]) -> None:
    names = own_names(places)
    assert len({*names}) == len(names)
    assert all(place.endswith(name) for place, name in zip(places, names, strict=True))
    assert own_names([f"/some/where/{place}" for place in places]) == names


@given(paths, st.lists(words, min_size=1, max_size=4).map("/".join))
def test_a_new_path_changes_one_other_name_at_most(places: list[str], new: str) -> None:
    # x/0 and y/1 keep the folder of all where it is.
    places = [f"/d/{place}" for place in places if place != new] + ["/d/x/0", "/d/y/1"]
    before, after = own_names(places), own_names([*places, f"/d/{new}"])
    assert sum(a != b for a, b in zip(before, after[:-1], strict=True)) <= 1


def test_what_a_lot_depends_on() -> None:
    ours = Sample("/d/ants/1.jpg", "ants")
    other = Sample("/d/ants/2.jpg", "ants")
    bee = Sample("/d/bees/1.jpg", "bees")
    lot = Lots([ours, other, bee], 0, "parts").of(ours)
    assert lot == Lots([Sample("/elsewhere/1.jpg", "ants", "train", "film")], 0, "parts").of(
        Sample("/elsewhere/1.jpg", "ants")
    )
    lots = {
        lot,
        Lots([ours], 1, "parts").of(ours),
        Lots([ours], 0, "limit").of(ours),
        Lots([other], 0, "parts").of(other),
        Lots([bee], 0, "parts").of(bee),
    }
    assert len(lots) == 5


def test_names_that_are_no_proper_unicode_have_lots() -> None:
    odd = [Sample(f"/d/{name}.jpg", "a") for name in ("\udcff", "\udcfe")]
    lots = Lots(odd, 0, "parts")
    assert lots.of(odd[0]) != lots.of(odd[1])


def test_numbers_of_groups_are_uniform_whatever_their_size() -> None:
    """The smallest of 20 lots is small; the number made of it is not."""
    members = [Sample(f"/d/{i}.jpg", "a") for i in range(20)]
    numbers = [number_of(Lots(members, seed, "parts").of_group(members)) for seed in range(1000)]
    tenths = [sum(int(10 * number) == tenth for number in numbers) for tenth in range(10)]
    assert all(0 <= number < 1 for number in numbers)
    # 9 degrees of freedom: mean 9, standard deviation 4.2
    assert sum((count - 100) ** 2 / 100 for count in tenths) < 27


def test_a_group_keeps_its_lot_when_most_others_go() -> None:
    members = [Sample(f"/d/{i}.jpg", "a") for i in range(20)]
    lots = Lots(members, 0, "parts")
    first = lots.in_order(members)[0]
    for gone in members:
        kept = [sample for sample in members if sample != gone]
        same = Lots(kept, 0, "parts").of_group(kept) == lots.of_group(members)
        assert same == (gone != first)
