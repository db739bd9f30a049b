"""What is in a picture's file, as a hash: the key of everything that is kept of it.

A file is read once and then known by its size and time of change, as git knows the files of a
working tree; touched, renamed or copied it is read again, and found to be what it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from fieldmark.data.memory import Memory, Seen
from fieldmark.data.parallel import in_parallel
from fieldmark.data.pictures import read_bundled, read_encoded
from fieldmark.download import sha256_of
from fieldmark.errors import PictureError
from fieldmark.progress import Progress

# A file may change twice within one tick of the file system's clock, whose time then says nothing:
# what is younger is not remembered. FAT counts in steps of two seconds.
_SETTLED_NS: Final = 2 * 10**9


def content_keys(
    paths: Sequence[str], progress: Progress, *, memory: Memory | None = None
) -> list[str | None]:
    """The sha256 of each picture's content, in order; None where it cannot be read.

    Two pictures with one key are the same, byte for byte. A picture inside a bundle is known by
    its shape and pixels.

    Args:
        memory: where hashes are remembered; None takes the user's cache.
    """
    memory = memory or Memory()
    absolute = [str(Path(path).absolute()) for path in paths]
    known = memory.files(absolute)
    fresh: dict[str, Seen] = {}

    def key(place: int) -> str | None:
        try:
            return _key(paths[place], absolute[place], known, fresh)
        except (OSError, ValueError, PictureError):
            return None

    keys: list[str | None] = []
    with progress.task("recognizing the pictures", total=len(paths)) as task:
        for found in in_parallel(key, range(len(paths))):
            keys.append(found)
            task.advance()
    memory.remember_files(fresh)
    return keys


def _key(path: str, absolute: str, known: dict[str, Seen], fresh: dict[str, Seen]) -> str | None:
    if (pixels := read_bundled(path)) is not None:
        return sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    if (encoded := read_encoded(path)) is not None:
        return sha256(encoded).hexdigest()
    before = Path(path).stat()
    seen = known.get(absolute)
    if seen and (seen.size, seen.mtime_ns) == (before.st_size, before.st_mtime_ns):
        return seen.content
    content = sha256_of(Path(path))
    after = Path(path).stat()
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if unchanged and time.time_ns() - after.st_mtime_ns > _SETTLED_NS:
        fresh[absolute] = Seen(after.st_size, after.st_mtime_ns, content)
    return content
