"""A folder in the cache that is either whole or not there, made once for all processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import filelock

from fieldmark.download import cache_directory
from fieldmark.errors import SourceError
from fieldmark.progress import Progress

_POLL_SECONDS: Final = 0.1
_KEY_DIGITS: Final = 32  # of a sha256: paths stay short enough for Windows


def unpacked_folder(sha256: str, use: str = "") -> Path:
    """Where what the file with this hash holds lies; it is whole, or not there.

    Args:
        use: what was made of it, where that is not the plain content.
    """
    return cache_directory("unpacked", f"{use}{'-' if use else ''}{sha256[:_KEY_DIGITS]}")


def build_once(
    folder: Path, build: Callable[[Path], None], *, what: str, progress: Progress
) -> None:
    """Have `build` fill `folder`, unless it is there already.

    It fills a hidden folder beside it, which then takes its name in one step; what a process that
    died has left behind is thrown away. Of several processes one builds, and the others wait.

    Args:
        what: what it is made of, for the user.

    Raises:
        SourceError: the cache cannot be written; also whatever `build` raises.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress.say(f"{what}: another process is unpacking it; waiting for it")
            lock.acquire(poll_interval=_POLL_SECONDS)
        try:
            if not folder.is_dir():  # while this one waited, another may have made it
                _build(folder, build)
        finally:
            lock.release()
    except (OSError, NotImplementedError) as error:  # a file system without locks
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceError(
            f"{what} cannot be unpacked: {problem}",
            given=folder.parent,
            fix="make room, or name another cache directory in FIELDMARK_CACHE",
        ) from error


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    half_done = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(half_done, ignore_errors=True)
    half_done.mkdir()
    try:
        build(half_done)
        half_done.replace(folder)
    except BaseException:
        shutil.rmtree(half_done, ignore_errors=True)
        raise
