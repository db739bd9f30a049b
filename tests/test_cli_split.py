"""`fieldmark split` as people meet it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldmark.data.sources.scan import scan

Verb = Callable[..., Any]  # see conftest.py


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.fixture
def photos(tmp_path: Path, make_pictures: Any) -> Path:
    folder: Path = make_pictures(tmp_path / "photos", {"cat": 30, "[dog]": 20})
    return folder


def table_of(out: str) -> list[list[str]]:
    """The lines from the heading to the next blank one, as words."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class"))
    end = next(i for i in range(start, len(lines)) if not lines[i].strip())
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start:end]]


def test_a_table_and_the_next_step(verb: Verb, photos: Path) -> None:
    done = verb("split", "photos", "parts", "--val", 0.2, "--seed", 4, "--group-by", "00[1-4]")
    assert done.code == 0, done.err
    heading, *rows = table_of(done.out)
    assert heading == ["class", "train", "val", "test", "all"]
    parts = scan("parts")
    for name, row in zip(("[dog]", "cat"), rows, strict=False):
        counts = [parts.count_by_class(part)[name] for part in ("train", "val", "test")]  # type: ignore[arg-type]
        assert row == [name, *map(str, counts), str(sum(counts))]
    assert rows[2] == ["all", "35", "10", "5", "50"]
    assert rows[3][0] == "groups"
    assert sum(map(int, rows[3][1:4])) == int(rows[3][4]) == 4
    assert "Kept together: 4 groups of 8 pictures" in done.out
    assert done.out.endswith("wrote parts\nNext: fieldmark train parts\n")
    assert done.err == ""


def test_the_next_step_trains(verb: Verb, photos: Path, no_drawing: None) -> None:
    words = ("--model", "resnet10", "--size", 32, "--epochs", 1, "--device", "cpu")
    for form, out in (("--copy", "a"), ("--link", "b"), ("--manifest", "c.csv")):
        done = verb("split", "photos", out, form, "--ignore-duplicates")
        assert done.code == 0, done.err
        step = done.out.splitlines()[-1].removeprefix("Next: fieldmark ").split()
        trained = verb(*step, *words)
        assert trained.code == 0, trained.err
        assert "40 pictures to train on, 5 to choose the best epoch (val), 5 for" in trained.out
    done = verb("split", "photos", "d", "--test", 0)
    assert done.out.endswith("Next: fieldmark train d --val-is-val\n")
    trained = verb("train", "d", "--val-is-val", *words)
    assert "45 pictures to train on, 5 to choose the best epoch (val), no test" in trained.out


def test_folds(verb: Verb, photos: Path) -> None:
    done = verb("split", "photos", "folds", "--folds", 4)
    assert table_of(done.out)[:4] == [
        ["class", "fold 1", "fold 2", "fold 3", "fold 4", "all"],
        ["[dog]", "5", "5", "5", "5", "20"],
        ["cat", "8", "8", "7", "7", "30"],
        ["all", "13", "13", "12", "12", "50"],
    ]
    assert "Next: fieldmark train folds/fold-1.csv, and so on to folds/fold-4.csv" in done.out
    assert sorted(path.name for path in Path("folds").iterdir()) == [
        f"fold-{i}.csv" for i in range(1, 5)
    ]
    two = verb("split", "photos", "two", "--folds", 2)
    assert "train two/fold-1.csv, and so on to two/fold-2.csv" in two.out
    done = verb("split", "photos", "many", "--folds", 12)
    assert "12 folds, which test 4 to 5 pictures" in done.out


def test_parts_that_are_there(verb: Verb, make_pictures: Any, tmp_path: Path) -> None:
    for part, size in (("train", 32), ("val", 24)):
        make_pictures(tmp_path / "given" / part, {"cat": 10, "dog": 10}, size=size)
    refused = verb("split", "given", "out")
    assert refused.code == 2
    for words in ("has parts already", "train 20, val 20", "--redraw", "--keep-parts"):
        assert words in refused.err
    kept = verb("split", "given", "out", "--keep-parts")
    assert table_of(kept.out)[-1] == ["all", "20", "20", "40"]
    assert kept.out.endswith("Next: fieldmark train out\n"), "as with the source itself"
    again = verb("split", "given", "out", "--redraw")
    assert again.code == 2
    assert "there already, and was not touched" in again.err


def test_misuse(verb: Verb, photos: Path) -> None:
    for words, told in (
        (("photos", "out", "--copy", "--link"), "one form at a time"),
        (("photos", "out", "--manifest"), "for example"),
        (("photos", "out", "--folds", "five"), "--folds"),
        (("photos", "out", "--group-by", "("), "no regular expression"),
        (("photos",), "OUT"),
        (("fotos", "out"), "did you mean"),
    ):
        done = verb("split", *words)
        assert done.code == 2
        assert told in done.err
        assert "Traceback" not in done.err
    assert not Path("out").exists()


def test_many_classes_leave_the_sums(verb: Verb, tmp_path: Path, make_pictures: Any) -> None:
    make_pictures(tmp_path / "photos", {f"c{i:02d}": 5 for i in range(31)}, size=8)
    done = verb("split", "photos", "out", "--ignore-duplicates")
    assert table_of(done.out)[1:] == [["all", "93", "31", "31", "155"]]


def test_real_photos(verb: Verb, shared_data: Path) -> None:
    source = shared_data / "hymenoptera"
    done = verb("split", source, "parts", "--redraw", "--link")
    assert done.code == 0, done.err
    parts = scan("parts")
    assert parts.count_by_class("train") == {"ants": 156, "bees": 164}
    assert len(parts.samples) == len(scan(source).samples) == 398
