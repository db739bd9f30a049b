"""What is seen of a picture, and that it is seen once."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image

from fieldmark.data.check import looks
from fieldmark.data.check.looks import Look, look_at
from fieldmark.data.memory import Memory
from fieldmark.errors import PictureError
from fieldmark.progress import Silent
from support.photos import photo


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory.sqlite")


def look(path: Path, memory: Memory) -> Look:
    (found,) = look_at([str(path)], Silent(), memory=memory)
    assert isinstance(found, Look), found
    return found


def test_a_look_gives_the_figures_of_the_pixels(tmp_path: Path, memory: Memory) -> None:
    picture = photo(1, 90, 70)
    picture.save(tmp_path / "a.png")
    found = look(tmp_path / "a.png", memory)
    pixels = np.asarray(picture).reshape(-1, 3) / 255
    assert found.mean == pytest.approx(pixels.mean(0), abs=1e-4)
    assert found.std == pytest.approx(pixels.std(0), abs=1e-4)
    grey = np.asarray(picture.convert("L")) / 255
    assert found.contrast == pytest.approx(grey.std(), abs=1e-4)
    assert (found.width, found.height) == (90, 70)
    assert (found.format, found.mode, found.bits, found.has_alpha) == ("PNG", "RGB", 8, False)


def test_the_hash_is_that_of_imagehash(shared_data: Path, memory: Memory) -> None:
    """From a photo decoded at a fraction of its size nearly the same bits come out."""
    paths = sorted((shared_data / "hymenoptera" / "val" / "bees").glob("*.jpg"))
    apart = []
    looked = look_at([*map(str, paths)], Silent(), memory=memory)
    for path, found in zip(paths, looked, strict=True):
        with Image.open(path) as picture:
            bits = imagehash.phash(picture).hash.ravel()
        wanted = int("".join("1" if bit else "0" for bit in bits), 2)
        apart.append((found.signature.phash ^ wanted).bit_count())
    assert len(apart) > 50
    assert max(apart) <= 4
    assert np.mean(apart) < 1


def test_the_share_of_one_colour_counts_pixels(tmp_path: Path, memory: Memory) -> None:
    pixels = np.full((80, 80, 3), 200, np.uint8)
    pixels[:20] = np.random.default_rng(0).integers(0, 150, (20, 80, 3))
    pixels[20:40] += np.uint8(8)  # as JPEG might
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert look(tmp_path / "a.png", memory).one_colour == pytest.approx(0.75)


def test_small_pictures_are_known_by_their_pixels_large_ones_by_their_bytes(
    tmp_path: Path, memory: Memory
) -> None:
    for name, side in (("small", 40), ("large", 200)):
        picture = photo(2, side, side)
        picture.save(tmp_path / f"{name}.png")
        picture.save(tmp_path / f"{name}.bmp")
    assert look(tmp_path / "small.png", memory).key == look(tmp_path / "small.bmp", memory).key
    assert look(tmp_path / "large.png", memory).key != look(tmp_path / "large.bmp", memory).key
    assert look(tmp_path / "small.png", memory).signature is None
    assert look(tmp_path / "large.png", memory).signature is not None


def test_a_second_look_decodes_nothing(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(3).save(tmp_path / "a.jpg")
    first = look(tmp_path / "a.jpg", memory)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(looks, "open_with_header", refuse)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "copy.jpg")
    again = look(tmp_path / "copy.jpg", memory)
    for name in ("key", "mean", "std", "contrast", "one_colour", "width", "height"):
        assert getattr(again, name) == getattr(first, name)
    assert again.signature.phash == first.signature.phash
    assert np.array_equal(again.signature.thumb, first.signature.thumb)
    assert np.array_equal(again.signature.chroma, first.signature.chroma)


@pytest.mark.parametrize("text", ["", "[1, 2]", '["k",2]', "null", "{}"])
def test_what_cannot_be_understood_in_the_memory_is_looked_at_again(
    tmp_path: Path, memory: Memory, text: str
) -> None:
    photo(4).save(tmp_path / "a.png")
    first = look(tmp_path / "a.png", memory)
    memory.remember_facts(looks._KIND, {first.key: text})
    assert look(tmp_path / "a.png", memory).mean == first.mean


def test_what_is_wrong_with_a_file_takes_its_place(tmp_path: Path, memory: Memory) -> None:
    photo(5, 900, 700).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    names = ("half.jpg", "whole.jpg", "page.jpg", "missing.jpg")
    paths = [str(tmp_path / name) for name in names]
    found = [*look_at(paths, Silent(), memory=memory)]
    assert [isinstance(x, PictureError) for x in found] == [True, False, True, True]
    assert found[0].problem == "truncated: the file ends before the picture does"
    assert "not a picture" in found[2].problem
    assert found[3].problem == "no such file"


@pytest.mark.parametrize("slice_size", [1, 3, 512])
def test_looks_come_in_order_whatever_the_slice_and_new_ones_are_counted(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch, slice_size: int
) -> None:
    """Also of equal files in two slices, and next to files that cannot be read."""
    monkeypatch.setattr(looks, "_SLICE", slice_size)
    sides = (70, 80, 90, 80, 100, 110, 70)
    paths = [str(tmp_path / f"{number}.png") for number in range(len(sides))]
    for path, side in zip(paths, sides, strict=True):
        photo(side, side, side).save(path)
    Path(paths[4]).write_text("no picture")

    totals: list[int | None] = []

    class Counts(Silent):
        def task(
            self, title: str, total: int | None, **words: Any
        ) -> AbstractContextManager[Silent]:
            if title == "examining the pictures":
                totals.append(total)
            return super().task(title, total, **words)

    for wanted in ([5], [1]):  # the second time the unreadable one is tried again
        totals.clear()
        found = [*look_at(paths, Counts(), memory=memory)]
        assert [x.width if isinstance(x, Look) else 0 for x in found] == [
            70, 80, 90, 80, 0, 110, 70
        ]  # fmt: skip
        assert totals == wanted
