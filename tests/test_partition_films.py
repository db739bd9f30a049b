"""What `fieldmark split` makes of films, and what `fieldmark check` says of the result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fieldmark
from fieldmark.progress import Silent
from support.photos import film, photo


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def fill(root: Path, *, photos: int, frames: int) -> Path:
    for number, label in enumerate(("ants", "bees")):
        (root / label).mkdir(parents=True)
        for i in range(photos):
            seed = 1000 * number + i
            photo(seed, 100, 80).save(root / label / f"{i}.png", compress_level=1)
    for i, frame in enumerate(film(5000, frames)):
        frame.save(root / "ants" / f"frame{i:02d}.jpg", quality=90)
    return root


def leaks(folder: Path, out: Path) -> int:
    done = fieldmark.check(folder, out=out, progress=Silent())
    return sum(finding.kind == "leak" for finding in done.findings)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_film_among_photos_comes_into_one_part(tmp_path: Path, seed: int) -> None:
    source, said = fill(tmp_path / "photos", photos=20, frames=15), Said()
    fieldmark.split(source, tmp_path / "parts", seed=seed, form="link", progress=said)
    assert leaks(tmp_path / "parts", tmp_path / "check") == 0
    assert not any("nearly alike" in line for line in said.lines)


def test_a_class_that_is_one_film_leaks_as_much_as_is_said(tmp_path: Path) -> None:
    source, said = fill(tmp_path / "photos", photos=20, frames=30), Said()
    for path in (source / "ants").glob("*.png"):
        path.unlink()
    done = fieldmark.split(source, tmp_path / "parts", form="link", progress=said)
    assert all(done.manifest.count_by_class(part)["ants"] for part in ("train", "val", "test"))
    (chain,) = (line for line in said.lines if "are a chain" in line)
    (note,) = (line for line in said.lines if "one in another part" in line)
    at_most, num = (int(re.findall(r"(\d+) pairs", line)[0]) for line in (chain, note))
    assert 0 < num <= at_most
    # Of a pair in two parts at least one picture is a finding, of a finding there is such a pair.
    assert 0 < leaks(tmp_path / "parts", tmp_path / "check") <= 2 * num
