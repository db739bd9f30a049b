"""What a folder holds, for whoever looks for pictures in it: sorted, without litter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fieldmark.data.sources.own import is_own_folder
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


def entries_of(folder: Path, own: set[Path] | None = None) -> tuple[list[str], list[str]]:
    """Names of folders and of everything else, sorted, without litter and without the runs and
    checks that Fieldmark wrote there; those are added to `own`. Raises OSError."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if not _is_folder(entry):
                files.append(entry.name)
            elif not is_own_folder(folder / entry.name):
                folders.append(entry.name)
            elif own is not None:
                own.add(folder / entry.name)
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a link in a circle as well, which would else cost everything beside it. It is told
    of where it is opened like any other file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def list_folder(folder: Path, own: set[Path] | None = None) -> tuple[list[str], list[str]]:
    """`entries_of`, where the folder is the user's own word.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return entries_of(folder, own)
    except OSError as error:
        raise not_readable(folder, error) from error


def walk(
    folder: Path,
    seen: set[tuple[int, int]],
    left_out: list[LeftOut],
    own: set[Path] | None = None,
) -> Iterator[str]:
    """Every file below `folder` worth looking at. Links are followed, each folder once only, so
    that links in a circle end. What Fieldmark wrote there is added to `own`."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        folders, files = entries_of(folder, own)
    except OSError as error:
        left_out.append(cannot_open(folder, error))
        return
    are_folders = set(folders)  # asked once a name: in a list that would be quadratic
    for name in sorted((*folders, *files)):
        if not is_text(name):
            left_out.append(LeftOut(shown(folder / name), NOT_UTF8))
        elif name in are_folders:
            yield from walk(folder / name, seen, left_out, own)
        else:
            yield str(folder / name)


def find_files_below(folder: Path) -> list[str | LeftOut]:
    """Every file below `folder` that may be a picture, then what could not be looked at; hidden
    files, litter and the figures of Fieldmark's own runs are none."""
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
