"""From what a user names to a manifest, and what is said when that cannot be."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fieldmark.data.manifest import write_manifest
from fieldmark.data.sources.scan import scan
from fieldmark.errors import SourceError
from fieldmark.types import Sample


def fill(root: Path, *names: str, size: tuple[int, int] = (8, 6)) -> Path:
    """Pictures under the given names; a name that ends in / makes an empty folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (9, 99, 199)).save(path, format="PNG")
    return root


def found_in(source: object) -> list[tuple[str, str, str]]:
    root = Path(str(source)).resolve()
    return [
        (str(Path(s.path).relative_to(root)), s.label, s.part)
        for s in scan(source).samples  # type: ignore[arg-type]
    ]


def error_of(source: object, *words: str) -> str:
    with pytest.raises(SourceError) as caught:
        scan(source)  # type: ignore[arg-type]
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert "do:" in text
    return text


TWO = ("ants/1.png", "bees/2.png")


def groups_in(source: Path) -> dict[str, str]:
    return {str(Path(s.path).relative_to(source)): s.group for s in scan(source).samples}


# Class folders ------------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "bees/b.png",
        "ants/z.png",
        "ants/deep/er/a.png",
        "蜜蜂/照片 1.jpg",
        "Zebra/no_end",
    )
    assert found_in(tmp_path) == [
        ("Zebra/no_end", "Zebra", ""),
        ("ants/deep/er/a.png", "ants", ""),
        ("ants/z.png", "ants", ""),
        ("bees/b.png", "bees", ""),
        ("蜜蜂/照片 1.jpg", "蜜蜂", ""),
    ]
    manifest = scan(str(tmp_path))
    assert manifest.class_names == ("Zebra", "ants", "bees", "蜜蜂"), "sorted as ImageFolder does"
    assert manifest == scan(tmp_path)
    assert scan(manifest) is manifest
    assert (manifest.all_grey, manifest.typical_side_px) == (False, 6)


def test_agrees_with_image_folder(shared_data: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = shared_data / "hymenoptera" / "train"
    theirs = ImageFolder(root, is_valid_file=lambda path: True)
    ours = scan(root)
    assert list(ours.class_names) == theirs.classes
    assert [(s.path, ours.class_names.index(s.label)) for s in ours.samples] == theirs.samples


def test_order_is_not_that_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(20)))
    expected = scan(tmp_path)
    real = os.scandir

    class Backwards:
        def __init__(self, folder: object) -> None:
            with real(folder) as entries:  # type: ignore[call-overload]
                self.entries = sorted(entries, key=lambda e: e.name[::-1], reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert scan(tmp_path) == expected


def test_litter_and_hidden_files_are_nothing(tmp_path: Path) -> None:
    fill(tmp_path, *TWO, ".git/x.png", "ants/.hidden.png", "ants/._1.png", "__MACOSX/ants/1.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "ants" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    manifest = scan(tmp_path)
    assert [Path(s.path).name for s in manifest.samples] == ["1.png", "2.png"]
    assert (manifest.left_out, manifest.notes) == ((), ())


def test_found_is_used_plus_left_out(tmp_path: Path) -> None:
    fill(tmp_path, *TWO, "ants/3.png")
    (tmp_path / "ants" / "notes.txt").write_text("remember the milk")
    (tmp_path / "ants" / "empty.jpg").write_bytes(b"")
    (tmp_path / "bees" / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "bees" / "pipe")
    manifest = scan(tmp_path)
    assert {Path(item.path).name: item.reason for item in manifest.left_out} == {
        "notes.txt": "not a picture (first bytes: b'remember the')",
        "empty.jpg": "file is empty",
        "broken": "no such file",
        "pipe": "not a regular file",
    }
    assert len(manifest.samples) == 3


def test_files_outside_the_classes_are_mentioned(tmp_path: Path) -> None:
    fill(tmp_path, *TWO, "stray.png")
    (tmp_path / "README.md").write_text("")
    assert scan(tmp_path).notes == (
        "Not looked at, lying outside the class folders: README.md, stray.png.",
    )


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    fill(tmp_path / "store", "x/1.png", "x/2.png", "y/3.png")
    fill(tmp_path / "set", "bees/b.png", "ants/")
    (tmp_path / "set" / "ants" / "linked").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "store" / "x" / "back").symlink_to(tmp_path / "set" / "ants")
    (tmp_path / "store" / "x" / "self").symlink_to(".")
    (tmp_path / "set" / "wasps").symlink_to(tmp_path / "store" / "y")
    manifest = scan(tmp_path / "set")
    assert manifest.count_by_class() == {"ants": 2, "bees": 1, "wasps": 1}
    assert manifest.left_out == ()


def test_a_file_reached_through_several_links_is_one_picture(tmp_path: Path) -> None:
    fill(tmp_path, "ants/1.png", "ants/2.png", "bees/3.png", "bees/4.png", "more/5.png")
    (tmp_path / "ants" / "again.png").symlink_to("1.png")
    (tmp_path / "bees" / "far").symlink_to(tmp_path / "more")
    (tmp_path / "bees" / "ant.png").symlink_to("../ants/2.png")
    manifest = scan(tmp_path)
    files = [Path(sample.path).resolve() for sample in manifest.samples]
    assert len(set(files)) == len(files), "else one file could be trained and tested on"
    assert [path.name for path in files] == ["1.png", "3.png", "4.png"]
    assert {Path(item.path).name: item.reason for item in manifest.left_out} == {
        "again.png": f"there before: the same file as {tmp_path / 'ants' / '1.png'}",
        "2.png": "there 2 times with different labels: ants, bees",
        "ant.png": "there 2 times with different labels: ants, bees",
        "5.png": "there 2 times with different labels: bees, more",
    }
    assert manifest.notes == (
        "2 pictures there several times, with different labels or parts: left out, for nothing "
        "says which is right.",
        "Left out, having no pictures: more.",
    )


def test_a_file_linked_into_two_parts_is_in_neither(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/3.png", "val/a/4.png", "val/b/5.png")
    (tmp_path / "val" / "a" / "leak.png").symlink_to(tmp_path / "train" / "a" / "1.png")
    manifest = scan(tmp_path)
    assert [Path(s.path).name for s in manifest.samples] == ["2.png", "3.png", "4.png", "5.png"]
    assert {item.reason for item in manifest.left_out} == {
        "there 2 times with different parts: train, val"
    }


def test_a_linked_source(tmp_path: Path) -> None:
    fill(tmp_path / "real", *TWO)
    (tmp_path / "link").symlink_to("real")
    assert scan(tmp_path / "link") == scan(tmp_path / "real")


def test_empty_classes_are_left_out_and_named(tmp_path: Path) -> None:
    fill(tmp_path, *TWO, "wasps/", "flies/")
    (tmp_path / "flies" / "a.txt").write_text("buzz")
    manifest = scan(tmp_path)
    assert manifest.class_names == ("ants", "bees")
    assert manifest.notes == ("Left out, having no pictures: flies, wasps.",)
    shutil.rmtree(tmp_path / "bees")
    assert scan(tmp_path).class_names == ("ants",)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    fill(tmp_path, *TWO)
    raw = os.fsencode(tmp_path / "ants") + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(tmp_path / "ants" / "1.png"), raw)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    manifest = scan(tmp_path)
    (item,) = manifest.left_out
    assert item.path.endswith(r"caf\xe9.png")
    assert item.reason == "its name is not UTF-8: rename it"
    write_manifest(manifest, tmp_path / "m.csv")


# Parts --------------------------------------------------------------------------------------------


def test_the_parts_as_some_data_sets_name_them(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/{name}" for part in ("Training", "Testing") for name in TWO))
    manifest = scan(tmp_path)
    assert manifest.class_names == ("ants", "bees")
    assert [s.part for s in manifest.samples] == ["train", "train", "test", "test"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_given_parts(tmp_path: Path, val: str) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", f"{val}/a/3.png", f"{val}/b/4.png")
    fill(tmp_path, "test/b/5.png", "extra/6.png")
    manifest = scan(tmp_path)
    assert [(Path(s.path).name, s.label, s.part) for s in manifest.samples] == [
        ("1.png", "a", "train"),
        ("2.png", "b", "train"),
        ("3.png", "a", "val"),
        ("4.png", "b", "val"),
        ("5.png", "b", "test"),
    ]
    assert manifest.notes == ("Not looked at, being no part (train, val, test): extra.",)


PARTED = ("train/ants/1.png", "train/bees/2.png", "train/bees/ä.png", "val/ants/3.png")


def test_groups_of_the_table_that_split_wrote_beside_the_parts(tmp_path: Path) -> None:
    fill(tmp_path, *PARTED)
    table = tmp_path / "manifest.csv"
    table.write_text(
        "path,label,split,group,source\n"
        "train/ants/1.png,ants,train,film 1,/old/1.png\n"
        "train/bees/ä.png,bees,train,film 1,/old/ä.png\n"
        "train/bees/gone.png,bees,train,film 1,/old/gone.png\n"
        "val/ants/3.png,ants,val,,/old/3.png\n"
        "too,short\n",
        encoding="utf-8",
    )
    assert groups_in(tmp_path) == dict(zip(PARTED, ("film 1", "", "film 1", ""), strict=True))
    note = f"Groups are taken from {table}: 1 group of 2 pictures."
    assert note in scan(tmp_path).notes
    zipped = shutil.make_archive(str(tmp_path.parent / f"{tmp_path.name}-z"), "zip", tmp_path)
    assert [s.group for s in scan(zipped).samples] == ["film 1", "", "film 1", ""]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"path,label\ntrain/ants/1.png,ants\n",
        b"path,label,split,group,source\n",
        b"\xff\xfe\x00",
        b"path,label,split,group,source\ntrain/ants/1.png,ants,train," + b"x" * 200_000 + b",y",
    ],
)
def test_a_table_beside_the_parts_that_is_another_stops_nothing(
    tmp_path: Path, content: bytes
) -> None:
    fill(tmp_path, *PARTED)
    (tmp_path / "manifest.csv").write_bytes(content)
    assert set(groups_in(tmp_path).values()) == {""}
    told = any("manifest.csv cannot be read" in note for note in scan(tmp_path).notes)
    assert told == (b"\xff" in content or len(content) > 100_000)


def test_train_alone_has_no_part(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png")
    manifest = scan(tmp_path)
    assert {s.part for s in manifest.samples} == {""}
    assert manifest.notes == ("train/ is the only part with labels; the others are drawn from it.",)


def test_a_test_folder_without_labels(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "test/0001.png")
    manifest = scan(tmp_path)
    assert {s.part for s in manifest.samples} == {"train", "val"}
    assert manifest.notes == ("Not looked at, having no class folders: test/.",)


def test_a_class_called_test_among_others_is_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "test/1.png", "trial/2.png")
    assert scan(tmp_path).class_names == ("test", "trial")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    one = fill(tmp_path / "1", "train/ant/1.png", "train/bee/2.png", "val/ants/3.png")
    error_of(one, "val has a class that train has no pictures of", "'ants' meant to be 'ant'")
    two = fill(tmp_path / "2", "val/a/1.png", "test/a/2.png", "val/b/3.png")
    error_of(two, "there is no train/", "val/, test/ or both")
    three = fill(tmp_path / "3", "train/a/1.png", "train/b/1.png", "val/a/2.png", "valid/a/2.png")
    error_of(three, "two folders both claim to be val", "val, valid")
    four = fill(tmp_path / "4", "train/1.png", "val/2.png")
    error_of(four, "holds no class folders, but 1 file directly", str(four / "train"))


# Folders that are no source -----------------------------------------------------------------------


def test_pictures_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    error_of(tmp_path, "no class folders, but 2 files directly", "SOURCE/ants/1.jpg", "path,label")


def test_nothing_there(tmp_path: Path) -> None:
    error_of(fill(tmp_path, "e/") / "e", "no class folders: it is empty")
    error_of(fill(tmp_path / "f", "a/", "b/"), "no pictures in this source", "JPEG, PNG")
    (tmp_path / "f" / "a" / "x.txt").write_text("hello")
    error_of(tmp_path / "f", "x.txt (not a picture (first bytes: b'hello'))")


def test_a_level_too_high_is_not_trained_on(tmp_path: Path) -> None:
    years = fill(tmp_path / "1", *(f"{year}/{name}" for year in ("2023", "2024") for name in TWO))
    error_of(
        years,
        f"{years}: 2023, 2024; in each of them ants, bees",
        "add --depth 2 (folders of one name become one class)",
        f"or name one level deeper: {years / '2023'}",
    )
    # A picture beside the folders, other folders, or one alone (Tiny ImageNet's images/): classes.
    assert scan(fill(years, "2023/1.png")).class_names == ("2023", "2024")
    other = fill(tmp_path / "2", "ants/nest/1.png", "ants/wood/2.png", "bees/hive/3.png")
    assert scan(other).class_names == ("ants", "bees")
    images = fill(tmp_path / "3", "ants/images/1.png", "bees/images/2.png")
    assert scan(images).class_names == ("ants", "bees")


def test_parts_a_level_too_high_are_not_taken_for_classes(tmp_path: Path) -> None:
    fill(tmp_path, *(f"photos/{part}/{name}" for part in ("train", "val") for name in TWO))
    text = error_of(tmp_path, "the parts lie one level deeper", str(tmp_path / "photos"))
    assert "--depth" not in text


# Depth --------------------------------------------------------------------------------------------


def labels_in(root: Path, depth: int) -> list[tuple[str, str, str]]:
    return [
        (str(Path(s.path).relative_to(root)), s.label, s.part)
        for s in scan(root, depth=depth).samples
    ]


def test_folders_of_one_name_are_one_class(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{year}/{name}" for year in ("2023", "2024") for name in TWO))
    fill(tmp_path, "2024/owls/deep/3.png")
    assert labels_in(tmp_path, 2) == [
        ("2023/ants/1.png", "ants", ""),
        ("2023/bees/2.png", "bees", ""),
        ("2024/ants/1.png", "ants", ""),
        ("2024/bees/2.png", "bees", ""),
        ("2024/owls/deep/3.png", "owls", ""),
    ]
    assert scan(tmp_path, depth=2).notes == (
        "Folders of one name are one class: 4 folders became 2 classes, as 2023/ants, 2024/ants "
        "became ants.",
    )


def test_kinds_of_kinds(tmp_path: Path) -> None:
    fill(tmp_path, "dogs/poodle/1.png", "dogs/pug/2.png", "cats/persian/3.png")
    assert scan(tmp_path).class_names == ("cats", "dogs")
    manifest = scan(tmp_path, depth=2)
    assert (manifest.class_names, manifest.notes) == (("persian", "poodle", "pug"), ())


def test_depth_counts_below_the_parts(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/x/{name}" for part in ("train", "val") for name in TWO))
    assert [(label, part) for _, label, part in labels_in(tmp_path, 2)] == [
        *(("ants", "train"), ("bees", "train"), ("ants", "val"), ("bees", "val")),
    ]


def test_pictures_above_the_class_folders_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "0.png", "x/1.png", "x/y/2.png", "x/y/ants/3.png", "x/z/bees/4.png")
    manifest = scan(tmp_path, depth=3)
    assert [Path(s.path).name for s in manifest.samples] == ["3.png", "4.png"]
    assert {Path(i.path).name: i.reason for i in manifest.left_out} == {
        "1.png": "it lies 1 level down, the classes 3",
        "2.png": "it lies 2 levels down, the classes 3",
    }
    assert manifest.notes == ("Not looked at, lying outside the class folders: 0.png.",)


def test_a_depth_that_is_not_there(tmp_path: Path) -> None:
    fill(tmp_path, *TWO)
    for depth in (2, 5):
        with pytest.raises(SourceError, match=r"(?s)levels down.*leave --depth out"):
            scan(tmp_path, depth=depth)
    fill(tmp_path, "ants/nest/3.png")
    with pytest.raises(SourceError, match="it is at most 2"):
        scan(tmp_path, depth=3)
    with pytest.raises(SourceError, match="depth says how deep"):
        scan([(str(tmp_path / "ants/1.png"), "ants")], depth=2)


def test_a_level_too_high_below_a_depth(tmp_path: Path) -> None:
    fill(tmp_path, *(f"a/{year}/{name}" for year in ("2023", "2024") for name in TWO))
    with pytest.raises(SourceError, match="add --depth 3"):
        scan(tmp_path, depth=2)


def test_links_in_a_circle_end_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, *(f"2023/{name}" for name in TWO))
    (tmp_path / "2023" / "again").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="there 2 times with different labels: again, ants"):
        scan(tmp_path, depth=2)


def test_one_class_is_enough_to_be_evaluated_or_shown(tmp_path: Path) -> None:
    one = fill(tmp_path / "1", "ants/1.png", "ants/2.png")
    assert found_in(one) == [("ants/1.png", "ants", ""), ("ants/2.png", "ants", "")]
    assert scan([(str(one / "ants" / "1.png"), "ant")]).class_names == ("ant",)
    nested = fill(tmp_path / "2", "images/ants/1.png", "images/bees/2.png")
    error_of(nested, "if the classes are ants, bees, add --depth 2", str(nested / "images"))


def test_missing(tmp_path: Path) -> None:
    fill(tmp_path, "photos/ants/1.png", "table/")
    error_of(tmp_path / "fotos", "no such folder", "did you mean", str(tmp_path / "photos"))
    error_of(tmp_path / "photo" / "ants", f"did you mean {tmp_path / 'photos'}?")
    error_of(tmp_path / "qqqq", f"{tmp_path} has photos, table")
    error_of("digitz", "did you mean the data set 'digits'?")
    error_of("", "no source was given")
    error_of(" ", "no source was given")


def test_one_file(tmp_path: Path) -> None:
    fill(tmp_path / "all", "1.png", "ants/2.png")
    top = tmp_path / "all"
    error_of(top / "1.png", "one file is not a source", f"name the folder: {top}")
    # The folder a picture lies in is one class, which would be refused in turn.
    fill(tmp_path / "photos", *TWO)
    fill(tmp_path / "parts", *(f"{part}/{name}" for part in ("train", "val") for name in TWO))
    holds = "name the folder that holds the class folders:"
    assert error_of(tmp_path / "photos/ants/1.png").endswith(f"{holds} {tmp_path / 'photos'}")
    assert error_of(tmp_path / "parts/train/ants/1.png").endswith(f"{holds} {tmp_path / 'parts'}")
    fill(tmp_path / "home", "notes.txt", *TWO)
    error_of(tmp_path / "home/ants/1.png", "one folder of pictures for each class")
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    error_of(tmp_path / "set.rar", "unpack it")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    error_of(tmp_path / "train-images-idx3-ubyte", "the folder that holds the IDX files")
    error_of("/dev/null", "neither a folder nor a file")


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops: the refusal is put on."""
    fill(tmp_path, *TWO, "ants/locked/3.png")
    real = os.scandir
    locked = [tmp_path / "ants" / "locked"]

    def scandir(folder: object) -> object:
        if folder in locked:
            raise PermissionError(13, "Permission denied")
        return real(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    (item,) = scan(tmp_path).left_out
    assert item.path == str(locked[0])
    assert item.reason == "folder cannot be opened: Permission denied"
    locked[:] = [tmp_path]
    error_of(tmp_path, "the folder cannot be read: Permission denied", "permissions")


# Other kinds --------------------------------------------------------------------------------------


def test_a_csv(tmp_path: Path) -> None:
    fill(tmp_path, *TWO)
    path = tmp_path / "Table.CSV"
    path.write_text("path,label\nants/1.png,Ameise\nbees/2.png,Biene\n")
    assert scan(path).class_names == ("Ameise", "Biene")


def test_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png", "3.png")
    paths = [tmp_path / f"{i}.png" for i in (1, 2, 3)]
    labels = ["b", "a", "b"]
    pairs = [(str(p), label) for p, label in zip(paths, labels, strict=True)]
    manifest = scan(pairs)
    assert [s.label for s in manifest.samples] == labels
    assert manifest.class_names == ("a", "b")
    assert scan(iter(pairs)) == scan([(p, la) for p, la in zip(paths, labels, strict=True)])
    assert scan([Sample(*pair) for pair in pairs]) == manifest
    parted = scan([(*pairs[0], "train"), (*pairs[1], "train"), (*pairs[2], "validation")])
    assert [s.part for s in parted.samples] == ["train", "train", "val"]
    assert len(scan([*pairs, pairs[0]]).left_out) == 1


def test_lists_that_are_none(tmp_path: Path) -> None:
    fill(tmp_path, "1.png")
    one = str(tmp_path / "1.png")
    error_of([(one, 3)], "a label is not a text", "3 (int)", "str(label)")
    error_of([(one, None)], "None (NoneType)")
    error_of([Sample(one, 3)], "3 (int)")  # type: ignore[arg-type]
    error_of([one], "entry 0", "(path, label)")
    error_of([(one, "a", "train", "x")], "entry 0")
    error_of([(7, "a")], "entry 0")
    error_of([(one, "a", "tset")], "did you mean 'test'", "entry 0")
    error_of([(one, "a", "train"), (one, "b")], "1 of 2 pictures without")
    error_of([], "no pictures")
    for nothing in (None, 3, b"photos", {"a.png": "a"}):
        error_of(nothing, "not a source of pictures", type(nothing).__name__)


def write_idx(folder: Path, prefix: str, labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = struct.pack(">IIII", 0x803, len(labels), 5, 4) + bytes(20 * len(labels))
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    packed = struct.pack(">II", 0x801, len(labels)) + bytes(labels)
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(packed))


@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST"])
def test_idx_folders(tmp_path: Path, below: str) -> None:
    write_idx(tmp_path / below, "train", [1, 0, 10, 2])
    write_idx(tmp_path / below, "t10k", [2, 0])
    manifest = scan(tmp_path)
    assert manifest.class_names == ("0", "1", "2", "10")
    assert [s.part for s in manifest.samples] == ["train"] * 4 + ["test"] * 2
    assert (manifest.all_grey, manifest.typical_side_px) == (True, 4)
    write_manifest(manifest, tmp_path / "m.csv")
    assert scan(tmp_path / "m.csv").samples == manifest.samples


def test_idx_with_a_class_that_train_lacks(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", [0, 1])
    write_idx(tmp_path, "t10k", [0, 5])
    error_of(tmp_path, "test has a class that train has no pictures of", "5")


def test_a_name_and_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = scan("digits")
    assert len(manifest.samples) == 1797
    assert manifest.samples[17] == Sample("digits#17", "7")
    assert (manifest.all_grey, manifest.typical_side_px) == (True, 8)
    fill(tmp_path / "digits", *TWO)
    assert scan("digits").class_names == ("ants", "bees")


def test_the_real_ants_and_bees(shared_data: Path) -> None:
    manifest = scan(shared_data / "hymenoptera")
    assert manifest.class_names == ("ants", "bees")
    assert len(manifest.of_part("train")) + len(manifest.of_part("val")) == 398
    assert manifest.left_out == ()
    assert not manifest.all_grey


def test_scanning_needs_none_of_the_heavy_libraries(tmp_path: Path) -> None:
    fill(tmp_path, *TWO)
    heavy = ("torch", "torchvision", "sklearn", "datasets", "pyarrow", "huggingface_hub")
    code = (
        "import sys; from fieldmark.data.sources.scan import scan; "
        f"scan({str(tmp_path)!r}); print(set({heavy!r}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
