"""What is said of copies before a training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fieldmark.assembly.pictures import look_for_copies, source_words
from fieldmark.data.sources.scan import scan
from fieldmark.progress import Silent
from fieldmark.recipe import assemble


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("folder", "depth", "command"),
    [
        ("photos", 1, "`fieldmark check photos` shows"),
        ("my photos", 2, "`fieldmark check 'my photos' --depth 2` shows"),
        (None, 1, "`fieldmark check SOURCE` shows"),
    ],
)
def test_the_command_that_shows_more_can_be_typed_as_it_stands(
    tmp_path: Path,
    make_pictures: Any,
    monkeypatch: pytest.MonkeyPatch,
    folder: str | None,
    depth: int,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    below = Path(folder or "x", *["2024"] * (depth - 1))
    make_pictures(below, {"ant": 6, "bee": 6})
    shutil.copy(below / "ant/000.png", below / "ant/copy.png")
    source = folder or [(str(path), path.parent.name) for path in below.glob("*/*.png")]
    recipe = assemble(None, {"source": source_words(source), "depth": depth}, {})
    listener = Listener()
    look_for_copies(scan(source, depth=depth), recipe, listener)
    assert any(line.startswith(command) for line in listener.lines), listener.lines
