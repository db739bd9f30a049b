"""Copies are found, pictures of one kind are not taken for copies, and no chain glues a set."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fieldmark.data.check import copies
from fieldmark.data.check.copies import Copies, find_copies, near_pairs
from fieldmark.data.check.looks import Look, look_at
from fieldmark.data.check.marks import Marks
from fieldmark.data.memory import Memory
from fieldmark.data.pictures import open_picture
from fieldmark.errors import PictureError
from fieldmark.progress import Silent
from support.photos import COPIES, film, photo, through

NUM = 16


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


def looks_of(pictures: list[Image.Image], folder: Path) -> list[Look | PictureError]:
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(str(folder / f"{number}.png"))
        picture.save(paths[-1], compress_level=1)
    return [*look_at(paths, Silent(), memory=Memory(folder / "memory.sqlite"))]


@pytest.fixture(scope="module")
def originals(shared_data: Path) -> list[Image.Image]:
    paths = sorted((shared_data / "hymenoptera" / "val" / "ants").glob("*.jpg"))[:NUM]
    pictures = [Image.open(path).convert("RGB") for path in paths]
    for picture in pictures:
        picture.thumbnail((320, 320))
    return pictures


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_of_a_photo_is_found_and_nothing_else(
    originals: list[Image.Image], workshop: Path, change: str
) -> None:
    looks = looks_of([*originals, *map(COPIES[change], originals)], workshop)
    found = find_copies(looks, Silent()).together()
    assert set(found) <= {(i, i + NUM) for i in range(NUM)}
    assert len(found) >= NUM - 2  # ants on plain ground are found unmoved only


def test_a_mirrored_photo_is_not_found_as_the_documentation_says(
    originals: list[Image.Image], workshop: Path
) -> None:
    mirrored = [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in originals]
    assert find_copies(looks_of([*originals, *mirrored], workshop), Silent()).together() == ()


def test_no_two_real_photos_are_taken_for_copies(shared_data: Path) -> None:
    paths = sorted(map(str, (shared_data / "hymenoptera").glob("*/*/*")))
    found = find_copies(look_at(paths, Silent()), Silent())
    assert len(found.nodes) == 398
    assert found.near == {}


def test_one_kind_of_thing_at_28_px_is_no_set_of_copies(shared_data: Path) -> None:
    """A thousand small pictures of clothes on black, alike as clothes are."""
    bundle = shared_data / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    looks = look_at([f"{bundle}#{i}" for i in range(1000)], Silent())
    found = find_copies(looks, Silent())
    assert found.together() == ()
    assert found.num_small == 1000


def test_a_recoloured_thing_is_no_copy_and_a_grey_one_is(tmp_path: Path) -> None:
    grey = np.asarray(photo(1).convert("L"), float)[..., None]
    red, blue = (
        Image.fromarray((grey * np.array(tint)).astype(np.uint8))
        for tint in ((1.0, 0.4, 0.3), (0.3, 0.4, 1.0))
    )
    looks = looks_of([red, blue], tmp_path)
    assert find_copies(looks, Silent()).together() == ()
    looks = looks_of([red, red.convert("L")], tmp_path)
    assert find_copies(looks, Silent()).together() == ((0, 1),)


def test_identical_pictures_are_one_node_and_unreadable_ones_none(tmp_path: Path) -> None:
    looks = looks_of([photo(1), photo(2), photo(1)], tmp_path)
    found = find_copies([*looks, PictureError("truncated")], Silent())
    assert found.nodes == ((0, 2), (1,))
    assert found.together() == ((0, 2),)


def test_empty_pictures_are_not_compared_by_their_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat = [
        Image.fromarray((100 + level + rng.integers(0, 3, (80, 80, 3))).astype(np.uint8))
        for level in (0, 40)
    ]
    assert find_copies(looks_of(flat, tmp_path), Silent()).together() == ()


def marks_of(pictures: list[Image.Image], folder: Path) -> Marks:
    marks = Marks()
    for look in looks_of(pictures, folder):
        assert isinstance(look, Look)
        assert look.signature is not None
        marks.add(look.signature, is_plain=False)
    return marks


def test_how_many_rows_are_compared_at_once_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [photo(s) for s in range(9)]
    pictures += [p.resize((200, 150)) for p in pictures[:4]]
    pictures += [p.crop((6, 6, 230, 170)) for p in pictures[2:6]]
    marks = marks_of(pictures, tmp_path)
    wanted = near_pairs(marks, Silent())
    assert {(0, 9), (1, 10), (4, 15), (5, 16)} <= set(wanted[0])
    monkeypatch.setattr(copies, "_TABLE", 60)
    monkeypatch.setattr(copies, "_ALIGNED_AT_ONCE", 3)
    monkeypatch.setattr(copies, "_PAIRS_AT_ONCE", 2)
    assert near_pairs(marks, Silent()) == wanted


def test_too_many_pairs_to_align_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [photo(7), photo(7).crop((7, 7, 230, 170)), photo(7).crop((1, 4, 226, 166))]
    marks = marks_of(pictures, tmp_path)
    pairs, untried = near_pairs(marks, Silent())
    assert (len(pairs), untried) == (3, 0)
    monkeypatch.setattr(copies, "MAX_ALIGNMENTS", 1)
    assert near_pairs(marks, Silent())[1] == 2
    assert near_pairs(marks_of(pictures[:1], tmp_path), Silent()) == ([], 0)


@given(
    st.lists(st.lists(st.sampled_from([0.7, 0.75, 0.8, 0.9]), max_size=30), min_size=1, max_size=9)
)
def test_the_likeliest_pairs_are_those_of_a_sort_of_all(blocks: list[list[float]]) -> None:
    """Equal ones in the order they came; however often what lies behind is dropped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "MAX_ALIGNMENTS", 2)
        likeliest, number = copies._Likeliest(), 0
        for block in blocks:
            i = np.arange(number, number + len(block))
            likeliest.add(i, i + 1, np.array(block, np.float32))
            number += len(block)
        i, j, num_dropped = likeliest.taken()
    values = [value for block in blocks for value in block]
    wanted = sorted(range(number), key=lambda k: -values[k])[:2]
    assert (i.tolist(), (j - i).tolist()) == (wanted, [1] * len(wanted))
    assert num_dropped == number - len(wanted)


def test_of_a_huge_set_identical_pictures_alone_are_found_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [photo(1), photo(1), photo(1).resize((200, 150)), photo(2)]
    monkeypatch.setattr(copies, "MAX_COMPARED", 3)
    assert find_copies(looks_of(pictures, tmp_path), Silent()).together() == ((0, 1, 2),)
    monkeypatch.setattr(copies, "MAX_COMPARED", 2)
    found = find_copies(looks_of(pictures, tmp_path), Silent())
    assert found.together() == ((0, 1),)
    assert copies.uncompared(found) == (
        "4 pictures are more than the 2 that can be compared in minutes: identical ones are "
        "found, near-duplicates are not looked for."
    )


def test_compared_looks_come_without_their_signatures(tmp_path: Path) -> None:
    looks = [*looks_of([photo(1), photo(1), photo(2)], tmp_path), PictureError("truncated")]
    found, kept = copies.compare(iter(looks), Silent())
    assert found == find_copies(looks, Silent())
    assert kept == [*(replace(look, signature=None) for look in looks[:3]), looks[3]]


@given(st.data())
def test_together_are_the_connected_pictures(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=8))
    edges = data.draw(
        st.lists(st.tuples(*(st.integers(0, len(sizes) - 1),) * 2).filter(lambda e: e[0] != e[1]))
    )
    ends = np.cumsum([0, *sizes]).tolist()
    nodes = tuple(tuple(range(a, b)) for a, b in pairwise(ends))
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    found = Copies(nodes, {a: tuple(sorted(b)) for a, b in near.items()}, 0, 0).together()
    rows, columns = ([e[side] for e in edges] for side in (0, 1))
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(sizes),) * 2)
    labels = connected_components(graph, directed=False)[1]
    wanted = [
        tuple(i for node in np.flatnonzero(labels == label) for i in nodes[node])
        for label in range(labels.max() + 1)
    ]
    assert sorted(found) == sorted(group for group in wanted if len(group) > 1)


def test_each_frame_of_a_film_is_like_the_next_and_the_first_is_not_like_the_last(
    tmp_path: Path,
) -> None:
    found = find_copies(looks_of(film(8, 40), tmp_path), Silent())
    assert 39 not in found.near[0]
    assert found.together() == (tuple(range(40)),)


def test_two_things_of_one_kind_on_plain_ground_are_no_copies(
    shared_data: Path, tmp_path: Path
) -> None:
    """Clothes enlarged to the size of a product photo: as large in shape, as poor in details."""
    bundle = shared_data / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    pictures = [open_picture(f"{bundle}#{i}", 1) for i in range(800)]
    large = [p.resize((112, 112), Image.Resampling.BICUBIC) for p in pictures]
    again = [through(p, "JPEG", quality=60) for p in large[:40]]
    found = find_copies(looks_of([*large, *again], tmp_path), Silent()).together()
    copies = {(i, i + 800) for i in range(40)}
    assert len(set(found) & copies) >= 38
    assert len(set(found) - copies) <= 2  # of 320,000 pairs
