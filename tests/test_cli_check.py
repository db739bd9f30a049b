"""`fieldmark check` as people meet it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.photos import photo

Verb = Callable[..., Any]  # see conftest.py


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    seed = 0
    for label in ("ants", "bees"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            seed += 1
            photo(seed, 100, 80).save(tmp_path / "photos" / label / f"{i}.png", compress_level=1)
    return tmp_path / "photos"


def test_a_sound_set(verb: Verb, photos: Path) -> None:
    done = verb("check", "photos", "--strict")
    assert (done.code, done.err) == (0, "")
    assert "40 pictures of 2 classes\n" in done.out
    assert "Nothing was found." in done.out
    assert "Look at check-photos/check.html" in done.out
    assert "Next" not in done.out
    assert Path("check-photos/check.csv").read_text().count("\n") == 1


def test_findings_are_no_failure_unless_strict(verb: Verb, photos: Path) -> None:
    shutil.copy(photos / "ants" / "3.png", photos / "bees" / "x.png")
    done = verb("check", "photos")
    assert done.code == 0
    (line,) = (x for x in done.out.splitlines() if "label conflict" in x)
    assert re.match(r"error +label conflict +1 +bees/x.png = ants/3.png: identical; bees", line)
    assert "check photos --write-manifest clean.csv" in done.out
    done = verb("check", "photos", "--strict")
    assert done.code == 1
    assert "1 serious finding: leaks, label conflicts, unreadable files" in done.err


def test_a_class_that_is_lost_is_told_of(verb: Verb, photos: Path) -> None:
    shutil.copy(photos / "ants" / "3.png", photos / "ant.png")
    for path in (photos / "bees").iterdir():
        path.unlink()
    (photos / "bees" / "0.png").symlink_to("0.png")
    for path in sorted((photos / "ants").iterdir())[1:]:
        path.unlink()
    done = verb("check", "photos", "--strict")
    assert done.code == 1, "a link in a circle cannot be read"
    assert "1 picture of 1 class\n" in done.out
    words = " ".join(done.out.split())
    assert re.search(r"warning class size 3 ants: only 1 picture", words)
    table = Path("check-photos/check.csv").read_text()
    assert "the only class with pictures: there is nothing to tell it from" in table
    assert "class size,warning,,,,,no pictures: bees." in table


def test_its_own_output_in_the_source_is_passed_over(
    verb: Verb, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    for number in ("", "-2"):
        done = verb("check", ".")
        assert "40 pictures of 2 classes" in done.out
        assert "Nothing was found." in done.out
        assert f"check-photos{number}/check.html" in done.out
    assert "Passed over, being written by Fieldmark: check-photos." in done.out


def test_write_manifest_says_what_went_and_how_to_go_on(verb: Verb, photos: Path) -> None:
    shutil.copy(photos / "ants" / "3.png", photos / "ants" / "x.png")
    done = verb("check", "photos", "--write-manifest", "clean.csv", "--out", "here")
    assert done.code == 0
    assert "clean.csv leaves out 1 picture (duplicate: 1)\nNext: " in done.out
    assert "train clean.csv" in done.out
    assert len(Path("clean.csv").read_text().splitlines()) == 41
    assert {path.name for path in Path("here").iterdir()} == {"check.csv", "check.html"}
    done = verb("check", "photos", "--write-manifest", "clean.csv")
    assert done.code == 2
    assert "exists already" in done.err
    done = verb("check", "clean.csv", "--write-manifest", "again.csv")
    assert "again.csv leaves out nothing" in done.out


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal_and_cuts_no_path(
    verb: Verb, photos: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    name = "a name that is longer than what is left of a line " * 3
    shutil.copy(photos / "ants" / "3.png", photos / "ants" / f"{name}.png")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    done = verb("check", "photos")
    table = done.out[done.out.index("how bad") : done.out.index("Look at")]
    assert all(len(line) <= columns for line in table.splitlines())
    assert re.sub(r"\s", "", name) in re.sub(r"\s", "", table)
    assert "…" not in table


def test_names_cannot_steer_the_terminal(verb: Verb, photos: Path) -> None:
    shutil.copy(photos / "ants" / "3.png", photos / "ants" / "[red]\x1b[2J:bee:.png")
    done = verb("check", "photos")
    assert done.code == 0
    assert "[red]?[2J:bee:.png" in done.out
    assert "\x1b" not in done.out


def test_what_is_no_source_is_said(verb: Verb) -> None:
    done = verb("check", "nowhere")
    assert done.code == 2
    assert "no such folder" in done.err
    assert not Path("check-nowhere").exists()


def test_help(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    done = verb("check", "--help")
    assert re.findall(r"│ --([a-z-]+)", done.out) == [
        *("out", "write-manifest", "depth", "strict", "help"),
    ]
    assert "fieldmark check photos/" in done.out[done.out.index("Example") :]
    assert all(len(line) <= 80 for line in done.out.splitlines())
