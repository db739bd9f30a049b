"""The pixel cache: what a second run finds, what it costs, who waits, how large it gets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.contents import contents_of
from fieldmark.data.pixels import cache as cache_module
from fieldmark.data.pixels import keeping as keeping_module
from fieldmark.data.pixels import packs
from fieldmark.data.pixels.build import Keep, build_store
from fieldmark.data.pixels.cache import DEFAULT_LIMIT, PixelCache
from fieldmark.data.pixels.form import FORM_VERSION, Decoded, Form
from fieldmark.data.pixels.holders import OnDisk
from fieldmark.data.pixels.store import PixelStore
from fieldmark.errors import OutputError
from fieldmark.progress import Silent
from fieldmark.types import Preprocess, Sample
from support.stores import load_canvas, load_exact, load_for_crops

MakePictures = Callable[..., Path]
PREPROCESS = Preprocess(16, 3, (0.0,) * 3, (1.0,) * 3)
EXACT = Form("exact", PREPROCESS)


class Decoding:
    """Counts what is decoded: what comes from the cache is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = Form.decode

        def decode(form: Form, path: str) -> Any:
            self.paths.append(Path(path).name)
            return real(form, path)

        monkeypatch.setattr(Form, "decode", decode)

    def new(self) -> list[str]:
        """Since the last question."""
        taken, self.paths = sorted(self.paths), []
        return taken


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    return Decoding(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, make_pictures: MakePictures) -> Path:
    """000.png to 005.png, 24 x 24 px."""
    return make_pictures(tmp_path / "photos", {"cat": 6}, size=24) / "cat"


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(tmp_path / "pixels")


def build(folder: Path, cache: PixelCache | None, keep: Keep = "disk", **words: Any) -> PixelStore:
    samples = [Sample(str(path), "cat") for path in sorted(folder.iterdir())]
    words = {"form": EXACT, "strict": False, "title": "", "progress": Silent()} | words
    contents = contents_of([sample.path for sample in samples], Silent())
    return build_store(
        samples, words.pop("form"), keep=keep, cache=cache, contents=contents, **words
    )


def check_pixels(store: PixelStore, expected: Callable[[str, Preprocess], Any]) -> None:
    for index, pixels in enumerate(store.get_many(range(len(store)))):
        np.testing.assert_array_equal(pixels, expected(store.samples[index].path, PREPROCESS))


@pytest.mark.parametrize("keep", ["ram", "disk"])
def test_a_second_run_decodes_nothing(
    folder: Path, cache: PixelCache, decoding: Decoding, keep: Keep
) -> None:
    first = build(folder, cache, keep)
    assert len(decoding.new()) == 6
    second = build(folder, cache, keep)
    assert second.samples == first.samples
    check_pixels(second, load_exact)
    assert decoding.new() == []


def test_a_change_costs_only_itself(folder: Path, cache: PixelCache, decoding: Decoding) -> None:
    build(folder, cache)
    decoding.new()
    Image.new("RGB", (24, 24), "red").save(folder / "002.png")  # changed
    Image.new("RGB", (24, 24), "blue").save(folder / "new.png")  # added
    (folder / "004.png").unlink()  # removed
    (folder / "003.png").rename(folder / "renamed.png")
    (folder / "000.png").touch()
    store = build(folder, cache)
    assert decoding.new() == ["002.png", "new.png"]
    check_pixels(store, load_exact)
    assert build(folder, cache).samples == store.samples
    assert decoding.new() == []


@pytest.mark.parametrize(
    ("kind", "load"), [("exact", load_exact), ("crops", load_for_crops), ("canvas", load_canvas)]
)
def test_every_form_comes_back_as_it_was_decoded(
    tmp_path: Path, cache: PixelCache, decoding: Decoding, kind: Any, load: Any
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(((60, 40), (30, 90), (20, 20), (200, 10))):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    form = Form(kind, PREPROCESS)
    fresh = build(folder, None, "ram", form=form)
    build(folder, cache, form=form)
    decoding.new()
    found = build(folder, cache, form=form)
    assert decoding.new() == []
    np.testing.assert_array_equal(found.aspects(range(4)), fresh.aspects(range(4)))
    for index in range(4):
        np.testing.assert_array_equal(found.get(index), fresh.get(index))
        path = fresh.samples[index].path
        expected = load(path, PREPROCESS)
        pixels, aspect = expected if kind == "canvas" else (expected, None)
        np.testing.assert_array_equal(found.get(index), pixels)
        if aspect is not None:
            assert found.aspects([index]).tolist() == [aspect]


def test_what_decides_the_pixels_decides_the_form() -> None:
    others = (
        {"size": 17},
        {"channels": 1, "mean": (0.0,), "std": (1.0,)},
        {"resize": "squash"},
        {"crop_fraction": 0.5},
        {"interpolation": "bicubic"},
    )
    names = {Form("exact", replace(PREPROCESS, **words)).name for words in others}  # type: ignore[arg-type]
    names |= {Form(kind, PREPROCESS).name for kind in ("exact", "crops", "canvas")}
    assert len(names) == len(others) + 3
    # These are applied later.
    same = replace(PREPROCESS, mean=(0.5,) * 3, std=(0.2,) * 3, channel_order="bgr")
    assert Form("exact", same).name == EXACT.name
    # Whole pictures do not depend on how evaluation crops them.
    assert (
        Form("crops", replace(PREPROCESS, crop_fraction=0.5)).name == Form("crops", PREPROCESS).name
    )


def test_a_bad_picture_is_left_out_each_time(
    folder: Path, cache: PixelCache, decoding: Decoding
) -> None:
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:200])
    for _ in range(2):
        store = build(folder, cache)
        assert [Path(item.path).name for item in store.left_out] == ["001.png"]
        assert len(store) == 5
        check_pixels(store, load_exact)
    assert decoding.new().count("001.png") == 2


def test_copies_are_written_once(folder: Path, cache: PixelCache) -> None:
    build(folder, cache)
    once = cache.num_bytes
    cache.clear()
    for number in range(3):
        (folder / f"copy{number}.png").write_bytes((folder / "000.png").read_bytes())
    store = build(folder, cache)
    check_pixels(store, load_exact)
    assert cache.num_bytes - once < 3 * 200 + 1  # room in the header, no pixels


# Crashes and neighbours ---------------------------------------------------------------------------


def test_what_was_decoded_before_an_interruption_is_kept(
    folder: Path, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Form.decode

    def interrupted(form: Form, path: str) -> Any:
        if path.endswith("004.png"):
            time.sleep(0.3)  # the others are done by then
            raise KeyboardInterrupt
        return real(form, path)

    with monkeypatch.context() as patch:
        patch.setattr(Form, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(folder, cache)
    decoding = Decoding(monkeypatch)
    build(folder, cache)
    assert decoding.new() == ["004.png", "005.png"]


CRASH = """
import os, sys
from pathlib import Path
from fieldmark.data.pixels.packs import PackWriter
from fieldmark.data.pixels.form import Decoded
import numpy as np
writer = PackWriter(Path(sys.argv[1]), 10)
writer.add("0" * 64, Decoded(np.zeros((9, 9, 3), np.uint8), 1.0))
os._exit(1)
"""


def test_a_store_half_written_is_never_used(folder: Path, cache: PixelCache) -> None:
    build(folder, cache)
    where = cache.folder(EXACT)
    subprocess.run([sys.executable, "-c", CRASH, where], check=False, env=os.environ)
    [left] = where.glob(f"*{packs.UNSEALED}")
    assert cache.find(EXACT, ["0" * 64]) == {}
    check_pixels(build(folder, cache), load_exact)
    assert left.is_file()  # somebody may be writing it
    old = time.time() - 2 * cache_module._STALE_SECONDS
    os.utime(left, (old, old))
    Image.new("RGB", (9, 9)).save(folder / "new.png")
    build(folder, cache)
    assert not left.exists()


def test_of_two_that_decode_the_same_one_waits(
    folder: Path, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(monkeypatch)
    said: list[str] = []

    class Telling(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    inside, go_on = threading.Event(), threading.Event()
    counted = Form.decode

    def slow(form: Form, path: str) -> Any:
        inside.set()
        go_on.wait(10)
        return counted(form, path)

    monkeypatch.setattr(Form, "decode", slow)
    stores: list[PixelStore] = []

    def run() -> None:
        stores.append(build(folder, cache, progress=Telling()))

    first = threading.Thread(target=run)
    first.start()
    assert inside.wait(10)
    second = threading.Thread(target=run)
    second.start()
    for _ in range(100):
        if said:
            break
        time.sleep(0.05)
    go_on.set()
    first.join(20)
    second.join(20)
    assert said == ["another Fieldmark is decoding these pictures; waiting for it"]
    assert len(decoding.new()) == 6
    for store in stores:
        check_pixels(store, load_exact)


def test_a_pack_that_goes_away_is_a_picture_decoded_again(
    folder: Path, cache: PixelCache, decoding: Decoding
) -> None:
    store = build(folder, cache)
    assert isinstance(store.holder, OnDisk)
    cache.clear()
    decoding.new()
    check_pixels(store, load_exact)
    assert len(decoding.new()) == 6


def test_without_a_place_to_write_pictures_are_only_held(
    folder: Path, tmp_path: Path, decoding: Decoding
) -> None:
    (tmp_path / "taken").write_text("no folder")
    nowhere = PixelCache(tmp_path / "taken" / "pixels")
    with pytest.raises(OutputError, match="another cache directory in FIELDMARK_CACHE"):
        build(folder, nowhere, "disk")
    check_pixels(build(folder, nowhere, "ram"), load_exact)


def test_a_disk_that_fills_up_costs_only_the_next_run(
    folder: Path, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keeping_module.PackWriter.add
    written = 0

    def fill_up(writer: Any, content: str, picture: Any) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise OutputError("cannot write: no space left on device", fix="make room")
        real(writer, content, picture)

    monkeypatch.setattr(keeping_module.PackWriter, "add", fill_up)
    check_pixels(build(folder, cache, "ram"), load_exact)
    assert cache.num_bytes == 0
    assert not list(cache.root.rglob(f"*{packs.UNSEALED}"))
    written = 0
    with pytest.raises(OutputError, match="no space left"):
        build(folder, cache, "disk")


# The bound ----------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, cache: PixelCache, make_pictures: MakePictures, decoding: Decoding
) -> None:
    folders = {
        name: make_pictures(tmp_path / name, {name: 4}, size=24) / name for name in ("a", "b", "c")
    }
    for age, name in enumerate(("c", "b", "a")):
        build(folders[name], cache)
        for pack in cache.root.rglob(f"*{packs.SUFFIX}"):
            if time.time() - pack.stat().st_mtime < 1000:
                then = time.time() - 10_000 * (3 - age)  # c is the oldest
                os.utime(pack, (then, then))
    build(folders["c"], cache)  # used now
    decoding.new()
    each = cache.num_bytes // 3
    cache.set_limit(2 * each + 10)
    assert cache.num_bytes <= 2 * each + 10
    build(folders["a"], cache)
    build(folders["c"], cache)
    assert decoding.new() == []
    build(folders["b"], cache)
    assert len(decoding.new()) == 4
    assert cache.num_bytes <= 2 * each + 10


def test_what_does_not_fit_evicts_nothing(folder: Path, cache: PixelCache) -> None:
    build(folder, cache)
    there = cache.num_bytes
    cache.set_limit(there + 1)
    assert not cache.has_room(there + 2)
    assert not cache.make_room(there + 2)
    assert cache.num_bytes == there
    assert cache.has_room(there)
    assert cache.make_room(there)
    assert cache.num_bytes == 0


def test_a_full_disk_has_no_room(
    folder: Path, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        free, total = 60, 1000  # 50 must stay free

    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: Disk)
    assert cache.has_room(10)
    assert not cache.has_room(11)


def test_listing_limiting_clearing(folder: Path, cache: PixelCache) -> None:
    assert (cache.list_kept(), cache.num_bytes, cache.limit) == ([], 0, DEFAULT_LIMIT)
    build(folder, cache)
    build(folder, cache, form=Form("crops", PREPROCESS))
    kept = cache.list_kept()
    assert {item.about["kind"] for item in kept} == {"exact", "crops"}
    assert sum(item.num_bytes for item in kept) == cache.num_bytes > 0
    cache.set_limit(10**9)
    assert cache.clear() > 0
    assert (cache.list_kept(), cache.num_bytes, cache.limit) == ([], 0, 10**9)
    (cache.root / "limit").write_text("nonsense")
    assert cache.limit == DEFAULT_LIMIT


def test_a_store_knows_what_was_there_before(folder: Path, cache: PixelCache) -> None:
    assert build(folder, cache).num_found == 0
    Image.new("RGB", (24, 24), "red").save(folder / "002.png")
    assert build(folder, cache).num_found == 5
    assert build(folder, None, "ram").num_found == 0


def test_what_is_being_written_is_counted_and_left_to_its_writer(cache: PixelCache) -> None:
    writer = packs.PackWriter(cache.folder(EXACT), 10)
    writer.add("0" * 64, Decoded(np.zeros((9, 9, 3), np.uint8), 1.0))
    assert writer._stream is not None
    writer._stream.flush()
    assert cache.num_bytes > 9 * 9 * 3
    cache.clear()
    writer.seal()
    assert set(cache.find(EXACT, ["0" * 64])) == {"0" * 64}


def test_a_file_replaced_after_it_was_hashed_is_not_kept_under_its_old_key(
    folder: Path, cache: PixelCache
) -> None:
    samples = [Sample(str(path), "cat") for path in sorted(folder.iterdir())]
    contents = contents_of([sample.path for sample in samples], Silent())
    before = (folder / "000.png").read_bytes()
    Image.new("RGB", (24, 24), "red").save(folder / "000.png")
    words: dict[str, Any] = {"strict": False, "title": "", "progress": Silent()}
    build_store(samples, EXACT, keep="disk", cache=cache, contents=contents, **words)
    (folder / "000.png").write_bytes(before)
    again = build(folder, cache)
    assert again.num_found == 5
    check_pixels(again, load_exact)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("exact", "bae9790271427073"), ("crops", "425e3e80a107da37"), ("canvas", "3a30f827445dbc1c")],
)
def test_other_pixels_need_another_version(tmp_path: Path, kind: Any, digest: str) -> None:
    """Packs of earlier versions would be taken for what these functions give. If this fails, count
    `FORM_VERSION` up, and put the new digests here."""
    ramp = np.add.outer(np.arange(50) * 3, np.arange(70) * 2)[..., None] * np.array([1, 2, 3])
    Image.fromarray((ramp % 256).astype(np.uint8)).save(tmp_path / "a.png")
    pixels = Form(kind, PREPROCESS).decode(str(tmp_path / "a.png")).pixels
    assert FORM_VERSION == 2
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest
