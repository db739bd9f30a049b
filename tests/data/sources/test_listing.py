"""A walk through folders: no link costs more than itself, and none of Fieldmark's own files is a
picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fieldmark
from fieldmark.data.check.findings import find_left_out, find_places_passed_over
from fieldmark.data.sources import listing
from fieldmark.data.sources.listing import entries_of, find_files_below, walk
from fieldmark.data.sources.scan import scan
from fieldmark.errors import SourceError
from fieldmark.progress import Silent
from fieldmark.types import LeftOut

MakePictures = Callable[..., Path]  # see conftest.py
COUNTS = {"cat": 5, "dog": 5}


@pytest.fixture
def photos(tmp_path: Path, make_pictures: MakePictures) -> Path:
    return make_pictures(tmp_path / "photos", COUNTS)


# Links --------------------------------------------------------------------------------------------


def test_a_link_to_itself_costs_nothing_but_itself(photos: Path) -> None:
    loop = photos / "cat" / "loop.jpg"
    loop.symlink_to("loop.jpg")
    (photos / "loop").symlink_to("loop")  # beside the class folders
    manifest = scan(photos)
    assert manifest.count_by_class() == COUNTS
    (left_out,) = manifest.left_out
    assert left_out.path == str(loop)
    assert "symbolic link" in left_out.reason
    assert [finding.kind for finding in find_left_out(manifest.left_out)] == ["unreadable"]
    assert "lying outside the class folders: loop." in manifest.notes[0]


def test_a_link_to_itself_in_a_list_is_left_out(photos: Path) -> None:
    loop = photos / "cat" / "loop.jpg"
    loop.symlink_to("loop.jpg")
    rows = [(str(path), path.parent.name) for path in photos.rglob("*.png")]
    assert [item.path for item in scan([*rows, (str(loop), "cat")]).left_out] == [str(loop)]


def test_a_closed_folder_is_an_error_of_the_check(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = os.scandir

    def closed(folder: Any) -> Any:
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied")
        return sound(folder)

    (photos / "cat" / "deep").mkdir()
    monkeypatch.setattr(listing.os, "scandir", closed)
    (found,) = find_left_out(scan(photos).left_out)
    assert (found.kind, found.severity) == ("unreadable", "error")
    assert found.path == str(photos / "cat" / "deep")
    assert "folder cannot be opened: Permission denied" in found.detail


def test_each_name_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of names that is searched for each of them makes 50,000 files take a minute."""
    compared = 0

    class Name(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(f"{i:04d}.png") for i in range(1000)]
    monkeypatch.setattr(listing, "entries_of", lambda folder, own=None: ([], names))
    assert len(list(walk(tmp_path, set(), []))) == 1000
    assert compared < 5000


# Fieldmark's own files ----------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_runs_and_checks_are_no_classes(photos: Path, make_pictures: MakePictures) -> None:
    before = scan(photos)
    touch(photos / "check-photos", "check.csv", "check.html")
    touch(photos / "runs" / "one", "recipe.toml", "manifest.csv", "curves.png")
    touch(photos / "runs" / "two", "recipe.toml", "model.safetensors", "curves.png")
    touch(photos / "cat" / "mine", "recipe.toml", "model.safetensors", "curves.png")
    after = scan(photos)
    assert (after.samples, after.class_names) == (before.samples, before.class_names)
    assert after.left_out == ()
    assert after.notes == (
        "Passed over, being written by Fieldmark: cat/mine, check-photos, runs.",
    )
    assert find_places_passed_over(after.notes) == []
    assert {Path(str(path)).suffix for path in find_files_below(photos)} == {".png"}
    assert len(find_files_below(photos)) == 10, "as `predict` finds them"


@pytest.mark.parametrize(
    "names",
    [("recipe.toml",), ("model.safetensors", "manifest.csv"), ("check.csv",), ("check.html",)],
)
def test_half_of_a_mark_is_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path / "x", *names)
    assert entries_of(tmp_path) == (["x"], [])


def test_a_class_called_runs_is_a_class(photos: Path, make_pictures: MakePictures) -> None:
    make_pictures(photos, {"runs": 3})
    assert scan(photos).count_by_class() == {**COUNTS, "runs": 3}
    touch(photos / "runs" / "one", "recipe.toml", "model.safetensors", "curves.png")
    manifest = scan(photos)
    assert manifest.count_by_class()["runs"] == 3
    assert manifest.notes == ("Passed over, being written by Fieldmark: runs/one.",)
    touch(photos / "empty" / "runs")
    assert entries_of(photos / "empty") == (["runs"], []), "an empty folder is nobody's mark"


def test_parts_and_depths_are_as_free_of_them(tmp_path: Path, make_pictures: MakePictures) -> None:
    for part in ("train", "val"):
        make_pictures(tmp_path / "a" / part, COUNTS)
        touch(tmp_path / "a" / part / "check-it", "check.csv", "check.html")
    touch(tmp_path / "a" / "runs" / "a", "recipe.toml", "model.safetensors")
    manifest = scan(tmp_path / "a")
    assert (manifest.class_names, len(manifest.of_part("train"))) == (("cat", "dog"), 10)
    assert manifest.notes == (
        "Passed over, being written by Fieldmark: runs, train/check-it, val/check-it.",
    )
    make_pictures(tmp_path / "b" / "2023", COUNTS)
    touch(tmp_path / "b" / "2023" / "runs" / "a", "recipe.toml", "model.safetensors")
    with pytest.raises(SourceError, match="--depth 2"):
        scan(tmp_path / "b")
    manifest = scan(tmp_path / "b", depth=2)
    assert manifest.class_names == ("cat", "dog")
    assert manifest.notes == ("Passed over, being written by Fieldmark: 2023/runs.",)


@pytest.mark.slow
def test_check_and_train_inside_their_source_leave_it_as_it_was(
    photos: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    monkeypatch.chdir(photos)
    words = {"model": "resnet10", "size": 32, "epochs": 1, "device": "cpu", "batch_size": 4}
    before = scan(".")
    fieldmark.check(".", progress=Silent())
    fieldmark.train(".", progress=Silent(), **words)
    done = fieldmark.check(".", progress=Silent())
    after = done.checked.manifest
    assert (after.samples, after.class_names) == (before.samples, before.class_names)
    assert not {finding.kind for finding in done.findings} & {"not looked at", "not a picture"}
    assert "check-photos, runs" in after.notes[-1]


def test_the_tables_of_a_split_are_no_strays(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "bad.jpg").write_text("no picture")
    words = {"near_duplicates": False, "progress": Silent()}
    out = fieldmark.split(photos, tmp_path / "parts", **words).path  # type: ignore[arg-type]
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("manifest.csv", "left_out.csv"),
    }
    assert not [note for note in scan(out).notes if "Not looked at" in note]
    (out / "stray.png").touch()
    assert "Not looked at, lying outside the class folders: stray.png." in scan(out).notes
    (out / "manifest.csv").write_text("path,label\n")  # somebody else's
    (note,) = (note for note in scan(out).notes if "Not looked at" in note)
    assert "left_out.csv, manifest.csv, stray.png" in note


def test_left_out_of_a_walk_is_untouched_by_own_folders(tmp_path: Path) -> None:
    left_out: list[LeftOut] = []
    own: set[Path] = set()
    touch(tmp_path / "runs" / "a", "recipe.toml", "model.safetensors")
    assert list(walk(tmp_path, set(), left_out, own)) == []
    assert (left_out, own) == ([], {tmp_path / "runs"})
