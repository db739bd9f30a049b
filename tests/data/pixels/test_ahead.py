"""Pictures stored while they are open for a look: the same pixels, each file decoded once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.assembly.pictures import draw_parts, look_for_copies
from fieldmark.auto import Facts, settle
from fieldmark.data import pictures as pictures_module
from fieldmark.data.check import looks as looks_module
from fieldmark.data.check.looks import LOOK_DECODE_PX
from fieldmark.data.manifest import Manifest
from fieldmark.data.pictures import decode_alike, open_with_header
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Form
from fieldmark.data.prepare import PreparedData, draft_preprocess, prepare_data, ready_ahead
from fieldmark.data.sources.scan import scan
from fieldmark.errors import OutputError
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.runtime import open_runtime
from support.photos import photo

MakePictures = Callable[..., Path]
CPU = open_runtime("cpu")
FACTS = Facts(all_grey=False, typical_side_px=40, min_size_px=1, has_norm=True, num_train=20)


class Lines(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def _no_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve different photos of either class."""
    for label, first in (("cat", 0), ("dog", 100)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            photo(first + i, 96, 72).save(tmp_path / "photos" / label / f"{i:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose pixels were decoded, each as often as it was."""
    names: list[str] = []
    real = open_with_header

    def watched(path: str, *words: Any) -> Any:
        names.append(Path(path).name)
        return real(path, *words)

    for module in (pictures_module, looks_module):
        monkeypatch.setattr(module, "open_with_header", watched)
    return names


def settled(**words: Any) -> Recipe:
    return settle(Recipe().with_settings({"data.size": 32} | words), FACTS)[0]


def looked_and_prepared(
    source: Path, recipe: Recipe, progress: Silent | None = None
) -> tuple[Manifest, PreparedData]:
    """As a training does it."""
    progress = progress or Silent()
    found = scan(source)
    with ready_ahead(draw_parts(found, recipe), recipe, CPU, progress) as ahead:
        found = look_for_copies(found, recipe, progress, ahead)
    stored = ahead.stored if ahead else frozenset()
    manifest = draw_parts(found, recipe)
    return manifest, prepare_data(manifest, recipe, CPU, progress, stored_ahead=stored)


def assert_same_pixels(one: PreparedData, other: PreparedData) -> None:
    for ours, theirs in ((one.train, other.train), (one.val, other.val), (one.test, other.test)):
        assert ours.samples == theirs.samples
        everything = range(len(ours))
        for a, b in zip(ours.get_many(everything), theirs.get_many(everything), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(ours.aspects_n, theirs.aspects_n)


def test_each_file_is_decoded_once_and_its_pixels_are_the_same(
    photos: Path, opened: list[str]
) -> None:
    manifest, ahead = looked_and_prepared(photos, settled())
    assert len(opened) == 24
    assert {sample.part for sample in manifest.samples} == {"train", "val", "test"}
    PixelCache().clear()
    assert_same_pixels(ahead, prepare_data(manifest, settled(), CPU, Silent()))
    assert len(opened) == 48  # the store alone, once more


def test_what_was_stored_ahead_is_not_said_to_be_an_earlier_runs(photos: Path) -> None:
    first, second = Lines(), Lines()
    looked_and_prepared(photos, settled(), first)
    looked_and_prepared(photos, settled(), second)
    assert not [line for line in first.said if "an earlier run" in line]
    assert "24 of 24 pictures were decoded by an earlier run" in second.said


def test_only_what_a_copy_moves_to_another_part_is_decoded_again(
    photos: Path, opened: list[str]
) -> None:
    recipe = settled()
    alone = draw_parts(scan(photos), recipe)
    (kept_back,) = (Path(s.path) for s in alone.of_part("test") if s.label == "cat")
    trained_on = next(Path(s.path) for s in alone.of_part("train") if s.label == "cat")
    shutil.copy(kept_back, trained_on)  # now they are one picture, and must not be parted
    opened.clear()
    manifest, data = looked_and_prepared(photos, recipe)
    parts = {sample.path: sample.part for sample in manifest.samples}
    assert parts[str(kept_back)] == parts[str(trained_on)]
    assert 23 <= len(opened) <= 23 + 3  # of two equal files one is looked at
    PixelCache().clear()
    assert_same_pixels(data, prepare_data(manifest, recipe, CPU, Silent()))


@pytest.mark.parametrize(
    "words", [{"data.quick_check": False}, {"data.cache": "none"}, {"data.channels": 1}]
)
def test_nothing_is_stored_where_nobody_looks_or_nothing_is_kept(
    photos: Path, words: dict[str, Any]
) -> None:
    recipe = settled(**words)
    with ready_ahead(draw_parts(scan(photos), recipe), recipe, CPU, Silent()) as ahead:
        assert ahead is None
    looked_and_prepared(photos, recipe)


def test_a_photo_that_is_looked_at_larger_than_it_is_stored_is_decoded_for_each(
    photos: Path, opened: list[str]
) -> None:
    large = photo(7, 1600, 1400)
    large.save(photos / "cat" / "large.jpg", quality=60)
    _, data = looked_and_prepared(photos, settled())
    assert opened.count("large.jpg") == 2
    assert len(opened) == 26
    PixelCache().clear()
    again = prepare_data(data.manifest, settled(), CPU, Silent())
    assert_same_pixels(data, again)


def test_a_disk_that_is_full_costs_a_training_nothing_but_time(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(writer: Any, content: str, picture: Any) -> None:
        raise OutputError("cannot write: no space left on device", fix="make room")

    with monkeypatch.context() as patch:
        patch.setattr("fieldmark.data.pixels.keeping.PackWriter.add", add)
        listener = Lines()
        manifest, data = looked_and_prepared(photos, settled(), listener)
    assert any("no space left on device" in line for line in listener.said)
    assert_same_pixels(data, prepare_data(manifest, settled(), CPU, Silent()))


def test_a_picture_replaced_after_it_was_hashed_is_not_stored_under_the_old_hash(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = settled()
    victim, other = photos / "cat" / "03.png", photos / "dog" / "04.png"
    manifest = draw_parts(scan(photos), recipe)
    with ready_ahead(manifest, recipe, CPU, Silent()) as ahead:
        assert ahead is not None
        shutil.copy(other, victim)
        look_for_copies(manifest, recipe, Silent(), ahead)
    data = prepare_data(manifest, recipe, CPU, Silent())
    PixelCache().clear()
    assert_same_pixels(data, prepare_data(manifest, recipe, CPU, Silent()))


@pytest.mark.parametrize("size", [(5000, 40), (700, 671), (1343, 2000), (1344, 1400), (2687, 2690)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_whether_two_requests_decode_alike_is_foretold(
    tmp_path: Path, size: tuple[int, int], name: str
) -> None:
    path = str(tmp_path / name)
    Image.new("RGB", size, "red").save(path)
    sizes = {px: open_with_header(path, 3, px) for px in (1, 48, 336, LOOK_DECODE_PX, 2000)}
    for one, (picture, header) in sizes.items():
        for other, (another, _) in sizes.items():
            assert decode_alike(header, one, other) == (picture.size == another.size)


@pytest.mark.parametrize("kind", ["exact", "crops", "canvas"])
def test_a_form_made_of_an_open_picture_is_that_of_its_file(tmp_path: Path, kind: Any) -> None:
    photo(3, 300, 200).save(tmp_path / "a.jpg")
    form = Form(kind, draft_preprocess(settled(**{"data.size": 96})))
    picture, header = open_with_header(str(tmp_path / "a.jpg"), 3, LOOK_DECODE_PX)
    assert decode_alike(header, LOOK_DECODE_PX, form.decode_px)
    before = picture.tobytes()
    made, expected = form.make(picture), form.decode(str(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(made.pixels, expected.pixels)
    assert made.aspect == expected.aspect
    assert picture.tobytes() == before
