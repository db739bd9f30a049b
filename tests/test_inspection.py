"""`fieldmark.check`: from a source to a table, a page and a clean manifest."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import fieldmark
from fieldmark import inspection
from fieldmark.errors import OutputError, SourceError
from fieldmark.progress import Silent
from support.photos import cropped, photo


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three classes in two parts, and one of everything that can be wrong with a few of them."""
    root, seed = tmp_path / "photos", 0
    for part, number in (("train", 10), ("val", 4)):
        for label in ("ants", "bees", "wasps"):
            (root / part / label).mkdir(parents=True)
            for i in range(number):
                seed += 1
                photo(seed, 160, 120).save(root / part / label / f"{i}.jpg", quality=90)
    train, val = root / "train", root / "val"
    shutil.copy(train / "ants" / "0.jpg", val / "ants" / "leak.jpg")
    photo(2, 160, 120).resize((300, 240)).save(val / "ants" / "leak resized.png")
    shutil.copy(train / "bees" / "0.jpg", train / "wasps" / "conflict.jpg")
    cropped(photo(12, 160, 120), 0.04).save(train / "wasps" / "conflict cropped.jpg", quality=80)
    shutil.copy(train / "wasps" / "5.jpg", train / "wasps" / "again.jpg")
    content = (train / "ants" / "9.jpg").read_bytes()
    (train / "ants" / "half.jpg").write_bytes(content[: len(content) // 2])
    (train / "ants" / "notes.txt").write_text("hello")
    Image.new("RGB", (160, 120), "white").save(train / "bees" / "white.jpg")
    photo(77, 160, 120).save(train / "bees" / "really.jpg", "PNG")
    return root


def run(source: object, tmp_path: Path, **words: object) -> fieldmark.Check:
    return fieldmark.check(source, out=tmp_path / "out", progress=Silent(), **words)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_wrong_is_found_and_nothing_is_changed(source: Path, tmp_path: Path) -> None:
    before = snapshot(source)
    done = run(source, tmp_path)
    assert snapshot(source) == before
    found = {
        (f.kind, f"{Path(f.path).parent.name}/{Path(f.path).name}") for f in done.findings if f.path
    }
    assert found == {
        ("leak", "ants/0.jpg"),
        ("leak", "ants/1.jpg"),
        ("label conflict", "wasps/conflict.jpg"),
        ("label conflict", "wasps/conflict cropped.jpg"),
        ("unreadable", "ants/half.jpg"),
        ("not a picture", "ants/notes.txt"),
        ("wrong ending", "bees/really.jpg"),
        ("duplicate", "wasps/again.jpg"),
        ("blank", "bees/white.jpg"),
        ("odd mode", "bees/white.jpg"),
    }
    assert {f.label for f in done.findings if f.kind == "class size"} == {"ants", "bees", "wasps"}
    assert done.checked.num_serious == 5
    assert done.clean is None


def test_the_table_has_a_row_for_each_finding(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path)
    with (done.path / "check.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["kind", "severity", "path", "label", "part", "other_path", "detail"]
    assert len(rows) == len(done.findings)
    assert Counter(row["kind"] for row in rows) == Counter(f.kind for f in done.findings)
    first = rows[0]
    assert first["kind"] == "leak"
    assert first["path"] == str(source / "train" / "ants" / "0.jpg")
    assert first["other_path"] == str(source / "val" / "ants" / "leak.jpg")
    assert (first["label"], first["part"]) == ("ants", "train")
    assert (done.path / "check.html").read_text("utf-8").count("<img") >= 10


def test_the_clean_manifest_leaves_the_findings_out_and_trains(
    source: Path, tmp_path: Path, no_drawing: None
) -> None:
    done = run(source, tmp_path, clean_manifest=tmp_path / "clean.csv")
    went = {"unreadable": 1, "blank": 1, "label conflict": 4, "leak": 2, "duplicate": 1}
    assert dict(done.went) == went
    with (tmp_path / "clean.csv").open(encoding="utf-8", newline="") as stream:
        kept = {row["path"] for row in csv.DictReader(stream)}
    everything = {str(path) for path in source.rglob("*") if path.suffix in (".jpg", ".png")}
    gone = {str(Path(path).relative_to(source)) for path in everything - kept}
    assert gone == {
        "train/ants/half.jpg",
        "train/bees/white.jpg",
        "train/bees/0.jpg",  # nothing says which label is right
        "train/wasps/conflict.jpg",
        "train/bees/1.jpg",
        "train/wasps/conflict cropped.jpg",
        "train/wasps/again.jpg",  # of equal ones the first path is kept
        "train/ants/0.jpg",  # the test part stays as it is
        "train/ants/1.jpg",
    }
    again = fieldmark.check(tmp_path / "clean.csv", out=tmp_path / "again", progress=Silent())
    assert {f.kind for f in again.findings} <= {"wrong ending", "class size", "outlier"}
    words = {"model": "resnet10", "size": 32, "epochs": 1, "device": "cpu", "batch_size": 8}
    trained = fieldmark.train(
        tmp_path / "clean.csv", out=tmp_path / "run", progress=Silent(), **words
    )
    assert trained.test is not None
    assert trained.test.accuracy.n == 4 * 3 + 2


def test_a_second_check_says_the_same(source: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        done = fieldmark.check(source, out=tmp_path / name, progress=Silent())
        texts.append([(done.path / file).read_bytes() for file in ("check.csv", "check.html")])
    assert texts[0] == texts[1]


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        run(source, tmp_path)
    (tmp_path / "clean.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        fieldmark.check(
            source,
            out=tmp_path / "other",
            clean_manifest=tmp_path / "clean.csv",
            progress=Silent(),
        )
    assert not (tmp_path / "other").exists()
    assert (tmp_path / "clean.csv").read_text() == "mine"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_check_that_ends_early_leaves_nothing_and_may_begin_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    if is_there:
        (tmp_path / "out").mkdir()

    def stopped(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "write_check_page", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*") if source not in path.parents)
    assert left == (["out", "photos"] if is_there else ["photos"])
    done = run(source, tmp_path)
    assert sorted(path.name for path in done.path.iterdir()) == ["check.csv", "check.html"]


@pytest.mark.parametrize(
    ("out", "clean", "told"),
    [
        ("new", "new", "cannot both be this"),
        ("new/", "./new", "cannot both be this"),
        ("file", "clean.csv", "exists already"),
        ("new", "file", "exists already"),
        ("new", "photos", "exists already"),
    ],
)
def test_places_are_refused_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, clean: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inspection, "scan", lambda *words, **more: pytest.fail("worked"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=told):
        fieldmark.check("photos", out=out, clean_manifest=clean, progress=Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]


def test_results_go_to_the_next_free_directory(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [fieldmark.check(source, progress=Silent()).path.name for _ in range(2)]
    assert names == ["check-photos", "check-photos-2"]


def test_a_source_of_which_nothing_would_be_left(tmp_path: Path) -> None:
    for label, colour in (("ants", "white"), ("bees", "black")):
        (tmp_path / "p" / label).mkdir(parents=True)
        Image.new("RGB", (80, 80), colour).save(tmp_path / "p" / label / "a.png")
    with pytest.raises(SourceError, match="would be empty") as caught:
        run(tmp_path / "p", tmp_path, clean_manifest=tmp_path / "clean.csv")
    assert "blank: 2" in str(caught.value)
    assert not (tmp_path / "clean.csv").exists()


def test_figures_of_the_set(tmp_path: Path) -> None:
    """Mean and std over all pixels of pictures of one size, as numpy has them."""
    import numpy as np

    pictures = [photo(seed, 70, 70) for seed in range(4)]
    for i, picture in enumerate(pictures):
        folder = tmp_path / "p" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.png")
    checked = run(tmp_path / "p", tmp_path).checked
    pixels = np.stack([np.asarray(picture) for picture in pictures]).reshape(-1, 3) / 255
    assert checked.mean == pytest.approx(pixels.mean(0), abs=1e-4)
    assert checked.std == pytest.approx(pixels.std(0), abs=1e-4)
    assert checked.sides == (70, 70, 70)


def test_the_digits_need_no_file(tmp_path: Path) -> None:
    done = run("digits", tmp_path)
    assert done.findings == ()
    assert done.checked.num_looked_at == 1797
    assert "1,797 pictures with a short side below 64 px" in done.checked.notes[0]


def test_the_ants_and_bees_have_a_stand_in_and_no_copies(shared_data: Path, tmp_path: Path) -> None:
    done = run(shared_data / "hymenoptera", tmp_path)
    kinds = Counter(finding.kind for finding in done.findings)
    assert kinds["blank"] == 1
    assert not kinds.keys() & {"leak", "label conflict", "duplicate", "unreadable"}
    assert kinds["outlier"] <= 20
