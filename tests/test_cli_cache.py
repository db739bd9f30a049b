"""`fieldmark cache`: what it lists, limits and clears, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldmark.cli.cache import parse_size
from fieldmark.errors import RecipeError


@pytest.fixture
def trained(
    verb: Callable[..., Any],
    tmp_path: Path,
    make_pictures: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    no_drawing: None,
) -> Path:
    """A cache directory after a training on 24 pictures of 40 px, shown at 32 px."""
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "kept"))
    make_pictures(tmp_path / "photos", {"cat": 12, "dog": 12}, size=40)
    words = ("--model", "resnet10", "--epochs", 1, "--size", 32, "--augment", "standard")
    done = verb("train", "photos", *words)
    assert done.code == 0, done.err
    assert "in memory, and kept for the next run in" in done.out
    return tmp_path / "kept"


def test_a_training_leaves_its_pixels_for_the_next(verb: Callable[..., Any], trained: Path) -> None:
    listed = verb("cache")
    assert listed.code == 0
    assert "as networks are shown them" in listed.out
    assert "whole, for random crops" in listed.out
    assert f"of at most 20.0 GB in {trained / 'pixels'}" in listed.out
    assert "memory.sqlite" in listed.out


def test_clearing_leaves_what_is_not_ours(verb: Callable[..., Any], trained: Path) -> None:
    mine = [trained / "pixels" / "mine" / "a.txt", trained / "notes.txt"]
    mine[0].parent.mkdir()
    mine.append(next((trained / "pixels").glob("exact-*")) / "also mine.txt")
    for path in mine:
        path.write_text("precious")
    cleared = verb("cache", "--clear")
    assert cleared.code == 0
    assert "freed " in cleared.out
    assert "0 bytes of at most" in cleared.out
    assert all(path.read_text() == "precious" for path in mine)
    assert not list(trained.rglob("pack-*"))


def test_a_limit_is_kept_at_once_and_later(verb: Callable[..., Any], trained: Path) -> None:
    assert "0 bytes of at most 5.0 kB" in verb("cache", "--limit", "5kB").out
    words = ("--model", "resnet10", "--epochs", 1, "--size", 32, "--name", "again")
    done = verb("train", "photos", *words)
    assert done.code == 0
    assert "not kept for the next run: no room for them in the cache" in done.out
    assert not list(trained.rglob("pack-*"))
    refused = verb("train", "photos", *words, "--name", "x", "--set", "data.cache=disk")
    assert refused.code == 2
    assert "fieldmark cache --limit" in refused.err
    assert not (Path("runs") / "x" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("50GB", 50 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("500M", 5 * 10**8),
        ("12kB", 12_000),
        ("0", 0),
        ("7b", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GB", "50 apples", "-1GB", "1e9", "50GiB", "5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="this is not a size"):
        parse_size(text)
