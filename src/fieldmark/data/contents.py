"""What is in a picture's file, as a hash: the key of everything that is kept of it.

A file is read once and then known by its state (size, times, place on the disk), as git knows the
files of a working tree; touched, renamed or copied it is read again, and found to be what it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from fieldmark.data.memory import Memory, Seen
from fieldmark.data.parallel import in_parallel
from fieldmark.data.pictures import read_bundled, read_encoded
from fieldmark.download import sha256_of
from fieldmark.errors import PictureError
from fieldmark.progress import Progress

# A file may change twice within one tick of the file system's clock, whose time then says nothing:
# what is younger is not remembered. FAT counts in steps of two seconds.
_SETTLED_NS: Final = 2 * 10**9


class Content(NamedTuple):
    """What is in a picture's file.

    Attributes:
        key: its sha256. A picture inside a bundle is known by its shape and pixels.
        state: of the file before it was read: `is_as_it_was` tells whether it still holds.
    """

    key: str
    state: str

    def is_as_it_was(self, path: str) -> bool:
        """Whether the file at `path` is the one whose content this is."""
        try:
            return not self.state or file_state(path) == self.state
        except OSError:
            return False


def content_keys(
    paths: Sequence[str], progress: Progress, *, memory: Memory | None = None
) -> list[str | None]:
    """The keys of `contents_of` alone: two pictures with one key are the same, byte for byte."""
    return [found.key if found else None for found in contents_of(paths, progress, memory=memory)]


def contents_of(
    paths: Sequence[str], progress: Progress, *, memory: Memory | None = None
) -> list[Content | None]:
    """What is in each picture's file, in order; None where it cannot be read.

    Args:
        memory: where hashes are remembered; None takes the user's cache.
    """
    memory = memory or Memory()
    absolute = [str(Path(path).absolute()) for path in paths]
    known = memory.files(absolute)
    fresh: dict[str, Seen] = {}

    def look(place: int) -> Content | None:
        try:
            return _content(paths[place], absolute[place], known, fresh)
        except (OSError, ValueError, PictureError):
            return None

    found: list[Content | None] = []
    with progress.task("recognizing the pictures", total=len(paths)) as task:
        for content in in_parallel(look, range(len(paths))):
            found.append(content)
            task.advance()
    memory.remember_files(fresh)
    return found


def _content(path: str, absolute: str, known: dict[str, Seen], fresh: dict[str, Seen]) -> Content:
    if (pixels := read_bundled(path)) is not None:
        return Content(sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(), "")
    if (encoded := read_encoded(path)) is not None:
        return Content(sha256(encoded).hexdigest(), "")
    before = file_state(path)
    seen = known.get(absolute)
    if seen and seen.state == before:
        return Content(seen.content, before)
    content = sha256_of(Path(path))
    changed_ns = Path(path).stat().st_mtime_ns
    if file_state(path) == before and abs(time.time_ns() - changed_ns) > _SETTLED_NS:
        fresh[absolute] = Seen(before, content)
    return Content(content, before)


def file_state(path: str) -> str:
    """What is other than before when a file's content is; raises OSError where there is none.

    Size and time alone would not do: two files of one size and time may change places. That, and
    any other renaming, changes the time of the entry (ctime) where a system keeps one; the number
    of the file (inode) tells the rest.
    """
    status = Path(path).stat()
    return (
        f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} "
        f"{status.st_dev}:{status.st_ino}"
    )
