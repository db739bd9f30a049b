"""What `scan` leaves out becomes findings of the right kind, by its own words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from fieldmark.data.check.findings import (
    KINDS,
    STRICT,
    Finding,
    find_left_out,
    find_places_passed_over,
    in_order,
)
from fieldmark.data.sources.scan import scan

FILES = {
    "notes.txt": (b"hello", "not a picture"),
    "page.jpg": (b"<!DOCTYPE html>", "not a picture"),
    "paper.pdf": (b"%PDF-1.4", "not a picture"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "not a picture"),
    "drawing.svg": (b"<svg/>", "not a picture"),
    "empty.jpg": (b"", "unreadable"),
    "header.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "unreadable"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        Image.effect_noise((40, 40), 40).save(tmp_path / name / "a.png")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_used(source: Path, name: str) -> None:
    content, kind = FILES[name]
    (source / "ants" / name).write_bytes(content)
    (found,) = find_left_out(scan(source).left_out)
    assert found.kind == kind
    assert found.path == str(source / "ants" / name)
    assert found.detail


def test_a_picture_reached_twice(source: Path) -> None:
    (source / "ants" / "link.png").symlink_to(source / "ants" / "a.png")
    (found,) = find_left_out(scan(source).left_out)
    assert found.kind == "duplicate"
    (source / "ants" / "link.png").unlink()
    (source / "ants" / "link.png").symlink_to(source / "bees" / "a.png")
    found_twice = find_left_out(scan(source).left_out)
    assert {finding.kind for finding in found_twice} == {"label conflict"}


def test_a_picture_listed_in_two_parts(source: Path) -> None:
    a, b = source / "ants" / "a.png", source / "bees" / "a.png"
    rows = [(a, "ants", "train"), (a, "ants", "val"), (b, "bees", "train")]
    found = find_left_out(scan(rows).left_out)
    assert [finding.kind for finding in found] == ["leak", "leak"]


def test_a_row_that_names_no_picture(source: Path) -> None:
    (source / "a.csv").write_text("path,label\nants/a.png,ants\nbees/a.png,bees\nants/a.png\n")
    (found,) = find_left_out(scan(source / "a.csv").left_out)
    assert found.kind == "not looked at"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_no_text(source: Path) -> None:
    Path(os.fsdecode(os.fsencode(source / "ants") + b"/\xff.png")).write_bytes(b"x")
    (found,) = find_left_out(scan(source).left_out)
    assert found.kind == "not looked at"
    found.path.encode()  # can be written into a table


def test_places_where_no_picture_is_looked_for(source: Path) -> None:
    (source / "readme.md").write_text("x")
    (found,) = find_places_passed_over(scan(source).notes)
    assert found.kind == "not looked at"
    assert "readme.md" in found.detail


def test_the_most_harmful_come_first_and_every_kind_says_what_to_do() -> None:
    mixed = [Finding(kind, "a") for kind in reversed(KINDS)]
    assert [finding.kind for finding in in_order(mixed)] == list(KINDS)
    severities = [finding.severity for finding in in_order(mixed)]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert all(finding.fix for finding in mixed)
    assert {kind for kind in KINDS if KINDS[kind].severity == "error"} == set(STRICT)
