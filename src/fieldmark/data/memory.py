"""What was learnt of files, remembered between runs: hashes of contents, and facts by those hashes.

One SQLite file in the cache directory, safe between processes. It is a convenience: where it
cannot be read or written (a full disk, a locked network drive, damage), everything is as if
nothing had been remembered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fieldmark.download import cache_directory

MEMORY_NAME: Final = "memory.sqlite"
MAX_ROWS: Final = 2_000_000  # of either table; the oldest go
_WAIT_SECONDS: Final = 10.0  # while another process writes
_SLICE: Final = 500  # values of one question; SQLite has a limit
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS known_files (path TEXT PRIMARY KEY, state TEXT, content TEXT)",
    "CREATE TABLE IF NOT EXISTS facts"
    " (kind TEXT, content TEXT, fact TEXT, PRIMARY KEY (kind, content))",
)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was when its content was hashed.

    Attributes:
        state: what changes with the file, see `contents`.
        content: its sha256.
    """

    state: str
    content: str


class Memory:
    """The file, opened for each question. Nothing raises; what cannot be had is missing.

    Args:
        path: None takes the cache directory's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_directory(MEMORY_NAME)

    def files(self, paths: Iterable[str]) -> dict[str, Seen]:
        """What is known of these paths."""

        def ask(database: sqlite3.Connection) -> dict[str, Seen]:
            found: dict[str, Seen] = {}
            for part in _slices(paths):
                marks = ", ".join("?" * len(part))
                rows = database.execute(
                    f"SELECT path, state, content FROM known_files WHERE path IN ({marks})", part
                )
                found |= {path: Seen(*rest) for path, *rest in rows}
            return found

        return self._ask(ask) or {}

    def remember_files(self, seen: Mapping[str, Seen]) -> None:
        """Keep what was found of files, in place of what was known of the same paths."""
        rows = [(path, s.state, s.content) for path, s in seen.items()]
        self._write("known_files", "INSERT OR REPLACE INTO known_files VALUES (?, ?, ?)", rows)

    def facts(self, kind: str, contents: Iterable[str]) -> dict[str, str]:
        """Facts of one kind by content; those not known are missing."""

        def ask(database: sqlite3.Connection) -> dict[str, str]:
            found: dict[str, str] = {}
            for part in _slices(contents):
                marks = ", ".join("?" * len(part))
                found |= dict(
                    database.execute(
                        f"SELECT content, fact FROM facts WHERE kind = ? AND content IN ({marks})",
                        [kind, *part],
                    )
                )
            return found

        return self._ask(ask) or {}

    def remember_facts(self, kind: str, facts: Mapping[str, str]) -> None:
        """Keep facts by content. A `kind` names the version of what computed them."""
        rows = [(kind, content, fact) for content, fact in facts.items()]
        self._write("facts", "INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)

    def _write(self, table: str, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def write(database: sqlite3.Connection) -> None:
            with database:  # one transaction: all of it, or nothing
                database.executemany(statement, rows)
                database.execute(
                    f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - ?",
                    [MAX_ROWS],
                )

        if rows:
            self._ask(write)

    def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `work` gives; None where the file cannot be used."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS)) as database:
                with database:
                    for statement in _TABLES:
                        database.execute(statement)
                return work(database)
        except sqlite3.OperationalError:  # locked, read-only, no room
            return None
        except sqlite3.DatabaseError:  # damaged: what was in it can be learnt again
            with suppress(OSError):
                self.path.unlink()
            return None
        except OSError:
            return None


def _slices(values: Iterable[str]) -> Iterator[list[str]]:
    every = list(values)
    for start in range(0, len(every), _SLICE):
        yield every[start : start + _SLICE]
