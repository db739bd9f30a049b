"""Pictures under new names: none lost, none changed, none of the user's touched."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.data.parts import materialize
from fieldmark.data.parts.materialize import (
    check_room,
    class_folders,
    moved,
    plan_places,
    write_pictures,
)
from fieldmark.data.sources.known import KNOWN_SETS
from fieldmark.data.sources.named import load_named
from fieldmark.errors import OutputError
from fieldmark.progress import Silent
from fieldmark.types import Sample

Usage = namedtuple("Usage", "total used free")


def files_of(folder: Path, *names: str) -> list[Sample]:
    """Files with different contents; the class is the first folder of the name."""
    samples = []
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * (10 + i))
        samples.append(Sample(str(path), name.split("/")[0], "train" if i % 3 else "val"))
    return samples


def test_files_of_one_name_both_survive(tmp_path: Path) -> None:
    samples = files_of(
        tmp_path / "in", "a/x/1.jpg", "a/y/1.jpg", "a/z/1.JPG", "a/1-2.jpg", "b/1.jpg", "a/.h.jpg"
    )
    placed, left_out = plan_places(samples)
    assert not left_out
    names = {Path(item.sample.path).relative_to(tmp_path / "in").as_posix(): item.name
             for item in placed}  # fmt: skip
    assert names == {
        "a/1-2.jpg": "val/a/1-2.jpg",
        "a/x/1.jpg": "val/a/1.jpg",
        "a/y/1.jpg": "train/a/1-3.jpg",
        "a/z/1.JPG": "train/a/1-4.JPG",
        "b/1.jpg": "train/b/1.jpg",
        "a/.h.jpg": "train/a/h.jpg",  # a hidden file would not be found again
    }
    done, _ = write_pictures(placed, tmp_path / "out", "copy", Silent())
    for item in done:
        written = tmp_path / "out" / item.name
        assert written.read_bytes() == Path(item.sample.path).read_bytes()
        assert written.stat().st_mtime_ns == Path(item.sample.path).stat().st_mtime_ns
    assert {s.path for s in moved(done, tmp_path / "out")} == {
        str(path) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "X", "x-2", "y"])), min_size=1),
    st.randoms(use_true_random=False),
)
def test_names_are_free_in_their_class_and_know_no_order(
    rows: list[tuple[str, str]], shuffler: random.Random
) -> None:
    samples = [
        Sample(f"digits#{i}", label, "train" if name == "y" else "val")
        for i, (label, name) in enumerate(rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        names = {sample.path: name for sample, (_, name) in zip(samples, rows, strict=True)}
        patch.setattr(materialize, "_look_at", lambda path: ("file", 1, f"{names[path]}.png"))
        placed, _ = plan_places(samples)
        shuffler.shuffle(samples)
        assert plan_places(samples)[0] == placed
    free = [(item.sample.label, Path(item.name).name.casefold()) for item in placed]
    assert len({*free}) == len(free) == len(rows)


def test_pixels_of_a_bundle_are_written_as_png(tmp_path: Path) -> None:
    samples = [Sample("digits#3", "3", "train"), Sample("digits#1700", "x", "test")]
    placed, _ = plan_places(samples)
    assert [item.name for item in placed] == [
        "test/x/digits-01700.png",
        "train/3/digits-00003.png",
    ]
    for form in ("copy", "link"):
        write_pictures(placed, tmp_path / form, form, Silent())  # type: ignore[arg-type]
        with Image.open(tmp_path / form / "train/3/digits-00003.png") as picture:
            assert (np.asarray(picture) == load_named("digits").images[3]).all()


@pytest.mark.parametrize("label", ["..", ".hidden", "./a", "a\0b", "n" * 256])
def test_classes_that_cannot_be_folders(label: str) -> None:
    with pytest.raises(OutputError, match="cannot be a folder's") as caught:
        plan_places([Sample("digits#3", label, "train")])
    assert "fieldmark split SOURCE NAME.csv --manifest" in str(caught.value)


def test_a_class_with_slashes_gets_a_folder_without_and_keeps_its_name(tmp_path: Path) -> None:
    files = files_of(tmp_path / "in", "x/1.jpg", "x/2.jpg")
    samples = [
        replace(files[0], label="T-shirt/top", part="train"),
        replace(files[1], label="a\\b", part="train"),
    ]
    placed, _ = plan_places(samples)
    assert [item.name for item in placed] == ["train/T-shirt_top/1.jpg", "train/a_b/2.jpg"]
    assert [sample.label for sample in moved(placed, tmp_path / "out")] == ["T-shirt/top", "a\\b"]


def test_every_known_data_set_can_be_divided_into_folders() -> None:
    for known in KNOWN_SETS.values():
        folders = class_folders(known.class_names)
        assert len(set(folders.values())) == len(known.class_names)
    assert class_folders(KNOWN_SETS["fashion-mnist"].class_names)["T-shirt/top"] == "T-shirt_top"


@pytest.mark.parametrize("labels", [("a/b", "a_b"), ("a/b", "a\\b"), ("A/b", "a_B")])
def test_classes_that_would_share_a_folder(labels: tuple[str, str]) -> None:
    with pytest.raises(OutputError, match="would share a folder") as caught:
        class_folders(labels)
    assert all(repr(label) in str(caught.value) for label in labels)


def test_classes_that_differ_in_capitals_share_no_file_name(tmp_path: Path) -> None:
    """On the disks of Windows and macOS they share a folder."""
    placed, _ = plan_places(files_of(tmp_path / "in", "Ants/1.jpg", "ants/1.jpg", "ants/1.JPG"))
    names = [item.name.partition("/")[2] for item in placed]
    assert len({name.casefold() for name in names}) == 3
    assert {name.partition("/")[0] for name in names} == {"Ants", "ants"}


@pytest.mark.parametrize("source", ["file", "digits#3"])
def test_nothing_is_written_over_another_picture(tmp_path: Path, source: str) -> None:
    (sample,) = files_of(tmp_path / "in", "a/1.jpg")
    placed, _ = plan_places([sample if source == "file" else Sample(source, "a", "train")])
    there = tmp_path / "out" / placed[0].name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(FileExistsError):
        write_pictures(placed, tmp_path / "out", "copy", Silent())
    assert there.read_text() == "mine"


def test_a_file_that_is_gone_or_fails_in_the_middle_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = files_of(tmp_path / "in", "a/1.jpg", "a/2.jpg", "a/3.jpg")
    placed, gone = plan_places([*samples, Sample(str(tmp_path / "in/a/4.jpg"), "a", "val")])
    assert [(Path(item.path).name, item.reason) for item in gone] == [
        ("4.jpg", "cannot be read: No such file or directory")
    ]
    sound = materialize._read

    def failing(stream):  # type: ignore[no-untyped-def]
        chunk = sound(stream)
        if stream.name.endswith("2.jpg") and not chunk:
            raise materialize.PictureError("cannot be read: Input/output error")
        return chunk

    monkeypatch.setattr(materialize, "_read", failing)
    Path(samples[2].path).unlink()
    done, left_out = write_pictures(placed, tmp_path / "out", "copy", Silent())
    assert [Path(item.name).name for item in done] == ["1.jpg"]
    assert {Path(item.path).name: item.reason for item in left_out} == {
        "2.jpg": "cannot be read: Input/output error",
        "3.jpg": "cannot be read: No such file or directory",
    }
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == ["1.jpg"], "no half file"


# Links --------------------------------------------------------------------------------------------


def refuse(*args: object, **words: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_links_lead_to_the_pictures_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_of(tmp_path / "in", "a/1.jpg")
    monkeypatch.chdir(tmp_path)
    placed, _ = plan_places([Sample("in/a/1.jpg", "a", "train")])
    write_pictures(placed, tmp_path / "out", "link", Silent())
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    link = tmp_path / "elsewhere/train/a/1.jpg"
    assert link.is_symlink()
    assert link.read_bytes() == Path("in/a/1.jpg").read_bytes()


def test_hard_links_where_symbolic_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, _ = plan_places(files_of(tmp_path / "in", "a/1.jpg", "a/2.jpg"))
    monkeypatch.setattr(os, "symlink", refuse)
    done, _ = write_pictures(placed, tmp_path / "out", "link", Silent())
    for item in done:
        assert (tmp_path / "out" / item.name).samefile(item.sample.path)
        assert not (tmp_path / "out" / item.name).is_symlink()
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match="no links can be made here") as caught:
        write_pictures(placed, tmp_path / "out2", "link", Silent())
    assert "Operation not permitted; Operation not permitted" in str(caught.value)
    assert "--copy, or --manifest" in str(caught.value)


# Room ---------------------------------------------------------------------------------------------


def test_room_is_looked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, _ = plan_places(files_of(tmp_path / "in", "a/1.jpg", "a/2.jpg"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 10_000))
    assert check_room(tmp_path / "not" / "there", placed, "copy") == 2 * 4096
    assert check_room(tmp_path, placed, "link", times=5) == 0
    with pytest.raises(OutputError, match="not enough room") as caught:
        check_room(tmp_path, placed, "copy", times=2)
    assert "16.4 kB needed, 10.0 kB free" in str(caught.value)
    assert "--link or --manifest" in str(caught.value)
