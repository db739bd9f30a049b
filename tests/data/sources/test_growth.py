"""A download that somebody else makes is reported by what has arrived."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fieldmark.data.sources import growth
from fieldmark.progress import Silent


class Counted(Silent):
    def __init__(self) -> None:
        self.counts: list[int] = []
        self.totals: list[int | None] = []
        self.told = threading.Event()

    @contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Counted]:
        assert in_bytes
        self.totals.append(total)
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.counts.append(count)
        self.told.set()


def test_what_arrives_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LOOK_EVERY_SECONDS", 0.005)
    folder, progress = tmp_path / "blobs", Counted()
    with growth.watched(folder, "fetching", 150, progress):
        folder.mkdir()
        (folder / "a.incomplete").write_bytes(bytes(100))
        assert progress.told.wait(10), "while the block runs, not after it"
        (folder / "a.incomplete").rename(folder / "a")
        (folder / "b").write_bytes(bytes(50))
    assert (sum(progress.counts), progress.totals) == (150, [150])


def test_what_was_there_before_is_not(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(70))
    progress = Counted()
    with growth.watched(tmp_path, "fetching", None, progress):
        (tmp_path / "new").write_bytes(bytes(30))
    assert progress.counts == [30]


def test_an_error_passes_and_the_thread_ends(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), growth.watched(tmp_path, "fetching", None, Counted()):
        raise KeyError
    assert threading.active_count() == before
