"""What a folder holds, for whoever looks for pictures in it: sorted, without litter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fieldmark.errors import SourceError
from fieldmark.types import LeftOut

NOT_UTF8: Final = "its name is not UTF-8: rename it"
# What operating systems and storage boxes leave behind; names that begin with a dot go as well.
_LITTER: Final = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin")
)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is nobody's picture: hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _LITTER


def entries_of(folder: Path) -> tuple[list[str], list[str]]:
    """Names of folders and of everything else, sorted, without litter. Raises OSError."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_litter(entry.name):
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """`entries_of`, where the folder is the user's own word.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return entries_of(folder)
    except OSError as error:
        raise not_readable(folder, error) from error


def walk(folder: Path, seen: set[tuple[int, int]], left_out: list[LeftOut]) -> Iterator[str]:
    """Every file below `folder` worth looking at. Links are followed, each folder once only, so
    that links in a circle end."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        folders, files = entries_of(folder)
    except OSError as error:
        left_out.append(cannot_open(folder, error))
        return
    for name in sorted((*folders, *files)):
        if not is_text(name):
            left_out.append(LeftOut(shown(folder / name), NOT_UTF8))
        elif name in files:
            yield str(folder / name)
        else:
            yield from walk(folder / name, seen, left_out)


def find_files_below(folder: Path) -> list[str | LeftOut]:
    """Every file below `folder` that may be a picture, then what could not be looked at; hidden
    files and litter are none."""
    left_out: list[LeftOut] = []
    files = list(walk(folder, set(), left_out))
    return [*files, *left_out]


def cannot_open(folder: Path, error: OSError) -> LeftOut:
    return LeftOut(shown(folder), f"folder cannot be opened: {error.strerror}")


def not_readable(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"the folder cannot be read: {error.strerror or error}",
        given=folder,
        fix="check its permissions, or copy the pictures to a place of your own",
    )


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:limit])
    return first + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def is_text(name: str) -> bool:
    """False for a name that is no UTF-8, which no CSV, terminal or page could show."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str | Path) -> str:
    """`path` with an escape in place of each byte that is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
