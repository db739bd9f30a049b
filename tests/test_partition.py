"""`fieldmark.split`: parts that stay, whole or not there."""

from __future__ import annotations

import csv
import errno
import shutil
from collections import Counter, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fieldmark
from fieldmark import partition
from fieldmark.assembly.pictures import find_samples
from fieldmark.data.manifest import Manifest, read_manifest
from fieldmark.data.parts import materialize
from fieldmark.data.parts.split import split as draw_parts
from fieldmark.data.pictures import open_picture
from fieldmark.data.sources.idx import load_idx
from fieldmark.data.sources.scan import scan
from fieldmark.errors import FieldmarkError, OutputError, RecipeError, SourceError
from fieldmark.progress import Silent
from fieldmark.recipe import assemble
from fieldmark.types import PARTS

Usage = namedtuple("Usage", "total used free")
FORMS = ("copy", "link", "manifest")


class Said(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def photos(tmp_path: Path, make_pictures: Any) -> Path:
    folder: Path = make_pictures(tmp_path / "photos", {"cat": 30, "dog": 20})
    return folder


def divide(source: Any, out: Path, **words: Any) -> fieldmark.Partition:
    words = {"near_duplicates": False, "progress": Silent(), **words}
    return fieldmark.split(source, out, **words)


def contents(manifest: Manifest) -> Counter[tuple[str, str, bytes]]:
    """What is where: part, class and pixels, whatever the files are called."""
    return Counter((s.part, s.label, open_picture(s.path, 3).tobytes()) for s in manifest.samples)


def everything_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# The three forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_is_what_was_drawn(photos: Path, tmp_path: Path, form: str) -> None:
    before = everything_below(photos)
    out = tmp_path / "new" / ("parts.csv" if form == "manifest" else "parts")
    done = divide(photos, out, form=form, val=0.2, test=0.1, seed=3)
    expected = divide(photos, tmp_path / "plain.csv", form="manifest", val=0.2, test=0.1, seed=3)
    found = scan(done.path)  # as `train` would see it
    assert contents(found) == contents(done.manifest) == contents(expected.manifest)
    assert [found.count_by_class(part) for part in PARTS] == [
        {"cat": 21, "dog": 14}, {"cat": 6, "dog": 4}, {"cat": 3, "dog": 2},
    ]  # fmt: skip
    assert {s.path for s in found.samples} == {s.path for s in done.manifest.samples}
    assert everything_below(photos) == before
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name], "nothing else is left"
    assert {path.is_symlink() for path in out.rglob("*.png")} <= {form == "link"}


def test_a_table_beside_the_parts_tells_where_each_picture_came_from(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "cat" / "deep").mkdir()
    shutil.copy(photos / "dog" / "001.png", photos / "cat" / "deep" / "001.png")
    done = divide(photos, tmp_path / "parts", group_by=r"00[12]")
    assert done.tables == (tmp_path / "parts" / "manifest.csv",)
    rows = rows_of(done.tables[0])
    assert list(rows[0]) == ["path", "label", "split", "group", "source"]
    assert len(rows) == 51
    for row in rows:
        assert row["path"].startswith(f"{row['split']}/{row['label']}/")
        written, original = tmp_path / "parts" / row["path"], Path(row["source"])
        assert written.read_bytes() == original.read_bytes()
        assert row["group"] == (original.stem if original.stem in ("001", "002") else "")
    # The table is a source as well, keeps its groups, and may be moved with its pictures.
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    table = read_manifest(tmp_path / "moved" / "manifest.csv")
    assert contents(table) == contents(scan(tmp_path / "moved"))
    assert Counter(s.group for s in table.samples) == {"": 46, "001": 3, "002": 2}
    assert table.notes == ()


def test_pictures_that_cannot_be_used_are_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "bad.jpg").write_text("no picture")
    said = Said()
    done = divide(photos, tmp_path / "parts", progress=said)
    assert [Path(item.path).name for item in done.manifest.left_out] == ["bad.jpg"]
    assert not list((tmp_path / "parts").rglob("bad*"))
    assert any("bad.jpg: not a picture" in line for line in said.lines)
    (row,) = rows_of(tmp_path / "parts" / "left_out.csv")
    assert row["path"] == str(photos / "cat" / "bad.jpg")


@pytest.mark.parametrize("form", FORMS)
def test_digits(tmp_path: Path, form: str) -> None:
    out = tmp_path / ("d.csv" if form == "manifest" else "d")
    done = divide("digits", out, form=form)
    found = scan(out)
    assert contents(found) == contents(done.manifest)
    assert len(found.samples) == 1797
    assert found.all_grey


def test_idx(tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 7), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 2
    shape = b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + shape + pixels.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\1" + (40).to_bytes(4, "big") + labels.tobytes()
    )
    done = divide(folder, tmp_path / "parts", form="link")  # pixels cannot be linked: written
    images = load_idx(folder / "train-images-idx3-ubyte", 3)
    for row in rows_of(done.tables[0]):
        index = int(row["source"].rpartition("#")[2])
        with Image.open(tmp_path / "parts" / row["path"]) as picture:
            assert (np.asarray(picture) == images[index]).all()
        assert row["label"] == str(labels[index])


# Groups -------------------------------------------------------------------------------------------


def test_near_duplicates_stay_together_also_across_classes(tmp_path: Path) -> None:
    """Ten scenes, each five times with another size and compression; one goes by two names."""
    rng = np.random.default_rng(0)
    for scene in range(10):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        for copy in range(5):
            label = "cat" if scene < 5 and not (scene == 0 and copy == 4) else "dog"
            path = tmp_path / "photos" / label / f"{scene}-{copy}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = 160 + 16 * copy
            small.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=80 + 3 * copy)
    said = Said()
    done = divide(tmp_path / "photos", tmp_path / "p", near_duplicates=True, val=0.2, test=0.2,
                  progress=said)  # fmt: skip
    parts: dict[str, set[str]] = {}
    for sample in done.manifest.samples:
        parts.setdefault(Path(sample.path).name.partition("-")[0], set()).add(sample.part)
    assert len(parts) == 10
    assert all(len(found) == 1 for found in parts.values())
    assert len({sample.group for sample in done.manifest.samples}) == 10
    assert "Kept together: 10 groups of 50 pictures, the largest of 5." in said.lines
    assert any("in two classes" in line for line in said.lines)


def test_groups_of_a_table_and_of_an_expression(photos: Path, tmp_path: Path) -> None:
    rows = ["path,label,group"]
    for path in sorted(photos.rglob("*.png")):
        rows.append(f"{path},{path.parent.name},{'x' if path.stem < '004' else ''}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    said = Said()
    done = divide(tmp_path / "t.csv", tmp_path / "p", group_by=r"(01)\d\.png", progress=said)
    groups: dict[str, set[str]] = {}
    for sample in done.manifest.samples:
        groups.setdefault(sample.group, set()).add(sample.part)
    assert {name: len(found) for name, found in groups.items() if name} == {"x": 1, "01": 1}
    assert any(line.startswith("group_by makes 1 group of 20 pictures") for line in said.lines)


@pytest.mark.parametrize("form", ["copy", "link"])
def test_groups_outlive_being_written_as_folders(photos: Path, tmp_path: Path, form: Any) -> None:
    done = divide(photos, tmp_path / "p", group_by=r"(\d)\.png", val=0, form=form)
    again = scan(tmp_path / "p")
    assert {s.path: s.group for s in again.samples} == {
        s.path: s.group for s in done.manifest.samples
    }
    drawn = draw_parts(again, val_fraction=0.2, test_fraction=0.1, seed=3)
    parts: dict[str, set[str]] = {}
    for sample in drawn.samples:
        parts.setdefault(sample.group, set()).add(sample.part)
    assert set(parts) == set("0123456789")
    assert all(len(found) == 1 for found in parts.values())


# Parts that are there -----------------------------------------------------------------------------


@pytest.fixture
def with_parts(tmp_path: Path, make_pictures: Any) -> Path:
    make_pictures(tmp_path / "given" / "train", {"cat": 10, "dog": 10})
    make_pictures(tmp_path / "given" / "val", {"cat": 10, "dog": 10}, size=24)
    return tmp_path / "given"


def test_parts_of_a_source_are_neither_overruled_nor_kept_unasked(
    with_parts: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="has parts already") as caught:
        divide(with_parts, tmp_path / "p")
    for words in ("train 20, val 20", "--redraw", "--keep-parts"):
        assert words in str(caught.value)
    assert not (tmp_path / "p").exists()

    anew = divide(with_parts, tmp_path / "anew", redraw=True).manifest
    assert [len(anew.of_part(part)) for part in PARTS] == [32, 4, 4]
    kept = divide(with_parts, tmp_path / "kept", keep_parts=True).manifest
    assert contents(kept) == contents(scan(with_parts))


def test_a_source_that_is_all_train_is_drawn_from(photos: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},train" for path in photos.rglob("*.png")]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    done = divide(tmp_path / "t.csv", tmp_path / "p")
    assert [len(done.manifest.of_part(part)) for part in PARTS] == [40, 5, 5]


def test_kept_parts_that_share_a_group_are_told_of(with_parts: Path, tmp_path: Path) -> None:
    said = Said()
    divide(with_parts, tmp_path / "p", keep_parts=True, group_by="cat/00[12]", progress=said)
    assert any("2 groups in train and val, for example 'cat/001'" in line for line in said.lines)


# Folds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [None, "link", "copy"])
def test_folds(photos: Path, tmp_path: Path, form: str | None) -> None:
    done = divide(photos, tmp_path / "folds", folds=5, val=0.25, form=form)
    assert len(done.manifests) == len(done.tables) == 5
    names = sorted(path.name for path in (tmp_path / "folds").iterdir())
    assert names == [f"fold-{i}{'' if form else '.csv'}" for i in range(1, 6)]
    tested: Counter[bytes] = Counter()
    for manifest, name, table in zip(done.manifests, names, done.tables, strict=True):
        found = scan(tmp_path / "folds" / name)
        assert contents(found) == contents(manifest) == contents(read_manifest(table))
        assert [len(found.of_part(part)) for part in PARTS] == [30, 10, 10]
        tested.update(open_picture(s.path, 3).tobytes() for s in found.of_part("test"))
    assert {*tested.values()} == {1}
    assert len(tested) == 50


def test_names_of_many_folds_sort_as_they_count(photos: Path, tmp_path: Path) -> None:
    done = divide(photos, tmp_path / "folds", folds=10)
    assert done.tables[0].name == "fold-01.csv"
    assert [*done.tables] == sorted(done.tables)


# Whole or not there -------------------------------------------------------------------------------


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_overwritten(photos: Path, tmp_path: Path) -> None:
    for name in ("folder", "file", "file.csv"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="there already, and was not touched"):
            divide(photos, tmp_path / name, form="manifest" if name == "file.csv" else "copy")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="there already"):
        divide(photos, tmp_path / "link")
    assert (tmp_path / "file.csv").read_text() == "mine"


def test_a_folder_that_appears_meanwhile_is_not_overwritten(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = partition._write_origins

    def meanwhile(*words: Any) -> None:
        (tmp_path / "out").mkdir()
        sound(*words)

    monkeypatch.setattr(partition, "_write_origins", meanwhile)
    with pytest.raises(OutputError, match="File exists"):
        divide(photos, tmp_path / "out")
    assert left_in(tmp_path) == ["out", "photos"]
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("fault", "raised", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left on device"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("form", ["copy", "link"])
def test_what_ends_early_leaves_nothing(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    raised: type[BaseException],
    told: str | None,
    form: str,
) -> None:
    before, count = everything_below(photos), 0
    put = materialize._copy if form == "copy" else materialize._Linker.__call__

    def fails_at_20(*words: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            assert any(name.startswith(".out.") for name in left_in(tmp_path / "new"))
            raise fault
        put(*words)

    if form == "copy":
        monkeypatch.setattr(materialize, "_copy", fails_at_20)
    else:
        monkeypatch.setattr(materialize._Linker, "__call__", lambda *words: fails_at_20(*words))
    said = Said()
    with pytest.raises(raised, match=told):
        divide(photos, tmp_path / "new" / "out", form=form, progress=said)
    assert left_in(tmp_path / "new") == []
    assert everything_below(photos) == before
    if raised is KeyboardInterrupt:
        assert (
            said.lines[-1] == f"nothing is left of what was begun: there is no {tmp_path}/new/out"
        )


def test_an_unreadable_file_in_the_middle_costs_only_itself(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = materialize._read

    def failing(stream: Any) -> bytes:
        if stream.name.endswith("007.png"):
            raise materialize.PictureError("cannot be read: Input/output error")
        return sound(stream)

    monkeypatch.setattr(materialize, "_read", failing)
    said = Said()
    done = divide(photos, tmp_path / "out", progress=said)
    assert len(done.manifest.samples) == len(scan(tmp_path / "out").samples) == 48
    assert len(rows_of(done.tables[0])) == 48
    assert [row["reason"] for row in rows_of(tmp_path / "out" / "left_out.csv")] == [
        "cannot be read: Input/output error"
    ] * 2
    assert any("007.png: cannot be read" in line for line in said.lines)


def test_no_room(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 100_000))
    with pytest.raises(OutputError, match="not enough room"):
        divide(photos, tmp_path / "out")
    assert left_in(tmp_path) == ["photos"]
    divide(photos, tmp_path / "out", form="link")


def test_tables_and_links_into_the_cache_are_warned_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "cache_directory", lambda: photos)
    for form in FORMS:
        said = Said()
        divide(photos, tmp_path / f"{form}.csv", form=form, progress=said)
        warned = [line for line in said.lines if "50 pictures in the cache" in line]
        assert bool(warned) == (form != "copy")


# Names of classes ---------------------------------------------------------------------------------


def test_a_class_with_a_slash_is_divided_under_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"cat": "mammals/cat", "dog": "dog"}
    rows = [f"{path},{named[path.parent.name]}" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    said = Said()
    done = divide(tmp_path / "t.csv", tmp_path / "p", progress=said)
    (line,) = (line for line in said.lines if "mammals" in line)
    assert "'mammals/cat' in mammals_cat/" in line
    assert f"{tmp_path / 'p' / 'manifest.csv'} keeps the names" in line
    assert scan(done.path).class_names == ("dog", "mammals_cat")
    table = scan(done.tables[0])
    assert table.class_names == done.manifest.class_names == ("dog", "mammals/cat")
    assert contents(table) == contents(done.manifest)


def test_a_class_that_cannot_be_a_folder_is_refused_before_the_pictures_are_looked_at(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{path},.{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    with monkeypatch.context() as patch:
        patch.setattr(partition, "quick_check", lambda *words, **more: pytest.fail("looked"))
        with pytest.raises(OutputError, match="cannot be a folder's"):
            divide(tmp_path / "t.csv", tmp_path / "p", near_duplicates=True)
    done = divide(tmp_path / "t.csv", tmp_path / "p.csv", form="manifest")
    assert done.manifest.class_names == (".cat", ".dog")


# Words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"redraw": True, "keep_parts": True}, "contradict each other"),
        ({"keep_parts": True, "val": 0.1}, "--keep-parts draws nothing"),
        ({"keep_parts": True, "folds": 3}, "--keep-parts draws nothing"),
        ({"keep_parts": True}, "needs a source with parts"),
        ({"folds": 5, "test": 0.2}, "each of 5 folds tests 1/5"),
        ({"folds": 1}, "number of folds makes no sense"),
        ({"folds": 0}, "number of folds makes no sense"),
        ({"folds": 3, "val": 1.0}, "val is a share"),
        ({"val": 0.0, "test": 0.0}, "these fractions set nothing aside"),
        ({"val": 0.5, "test": 0.5}, "nothing to train on"),
        ({"val": float("nan")}, "these fractions"),
        ({"val": -0.1}, "these fractions"),
        ({"seed": -1}, "a seed is no number below 0"),
        ({"group_by": "("}, "group_by is no regular expression"),
        ({"group_by": "."}, "too few groups"),
        ({"form": "manifest"}, "a table is written as .csv"),
    ],
)
def test_words_that_make_no_sense(
    photos: Path, tmp_path: Path, words: dict[str, Any], told: str
) -> None:
    with pytest.raises((RecipeError, SourceError, OutputError), match=told):
        divide(photos, tmp_path / "out", **words)
    assert left_in(tmp_path) == ["photos"]


def test_the_result_must_not_lie_in_the_source(photos: Path, tmp_path: Path) -> None:
    for out in (photos / "parts", photos / "cat" / "parts"):
        with pytest.raises(OutputError, match="would lie in the source") as caught:
            divide(photos, out)
        assert str(tmp_path / "photos-split") in str(caught.value)
    divide(photos, photos / "parts.csv", form="manifest")  # beside the classes, where none looks
    assert len(scan(photos).samples) == 50


def test_a_part_may_be_left_out(photos: Path, tmp_path: Path) -> None:
    done = divide(photos, tmp_path / "out", val=0.0, test=0.2)
    assert left_in(tmp_path / "out") == ["manifest.csv", "test", "train"]
    assert [len(done.manifest.of_part(part)) for part in PARTS] == [40, 0, 10]


def test_errors_are_of_the_family(tmp_path: Path) -> None:
    with pytest.raises(FieldmarkError, match="no such folder"):
        divide(tmp_path / "none", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(FieldmarkError, match="cannot write: File exists"):
        divide("digits", tmp_path / "file" / "out")


def test_train_draws_the_same_parts(photos: Path, tmp_path: Path) -> None:
    """Same fractions, seed and groups: what `split` writes is what `train` would have drawn."""
    words = {"source": str(photos), "seed": 5, "group_by": r"00\d"}
    found, _ = find_samples(photos, assemble(None, words, {}), Silent())
    assert len({sample.group for sample in found.samples}) == 11
    drawn = draw_parts(found, val_fraction=0.1, test_fraction=0.1, seed=5)
    done = divide(photos, tmp_path / "p.csv", form="manifest", seed=5, group_by=r"00\d")
    assert {s.path: s.part for s in drawn.samples} == {
        s.path: s.part for s in done.manifest.samples
    }


def test_a_home_of_nobody_is_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        divide("~nobody-of-that-name/photos", tmp_path / "out")
