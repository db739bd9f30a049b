"""A zip or tar of class folders, unpacked once into the cache.

Everything in it is unpacked, as by hand, so that what is no picture is named like anywhere else;
but for links and special files, which are left out, and litter. Nothing leads out of the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fieldmark.data.sources.candidates import PART_WORDS
from fieldmark.data.sources.listing import entries_of, is_litter, shown
from fieldmark.data.sources.members import DAMAGE, Member, leads_out, open_archive
from fieldmark.data.sources.once import build_once, unpacked_folder
from fieldmark.download import cache_directory
from fieldmark.errors import SourceError
from fieldmark.progress import Progress, Task, size
from fieldmark.types import LeftOut

KEPT_FREE_BYTES: Final = 500_000_000  # of the disk, for everybody else
MAX_FILES: Final = 2_000_000
# Deflate makes at most 1,032 of 1; photos hardly shrink, drawings and IDX files by 10 or 20.
MAX_RATIO: Final = 100
RATIO_MATTERS_BYTES: Final = 1_000_000_000
_NOTE: Final = ".fieldmark.json"
_CHUNK_BYTES: Final = 1 << 20
_BY_HAND: Final = "unpack it yourself, look at what it holds, and name the folder"


@dataclass(frozen=True)
class Unpacked:
    """Where an archive lies unpacked, and what was left out of it, with the reasons."""

    folder: Path
    left_out: tuple[LeftOut, ...]


def unpack(path: Path, sha256: str, progress: Progress) -> Unpacked:
    """Unpack an archive, unless that was done before.

    Args:
        sha256: of the whole file.

    Raises:
        SourceError: damaged, locked, leading out of its folder, or too large for the disk.
    """
    folder = unpacked_folder(sha256)

    def build(half_done: Path) -> None:
        left_out = _unpack_into(half_done, path, progress)
        rows = [[item.path, item.reason] for item in left_out]
        (half_done / _NOTE).write_text(json.dumps({"left_out": rows}), encoding="utf-8")

    build_once(folder, build, what=path.name, progress=progress)
    return read_unpacked(folder, path.name)


def read_unpacked(folder: Path, name: str) -> Unpacked:
    """What `unpack` left in the cache. `name`: of the archive, to stand before what is in it."""
    try:
        rows = json.loads((folder / _NOTE).read_text(encoding="utf-8"))["left_out"]
        left_out = tuple(LeftOut(f"{name}/{inside}", reason) for inside, reason in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            "what was unpacked into the cache has been changed",
            given=folder,
            fix="remove that folder, and it is unpacked anew",
        ) from error
    return Unpacked(folder, left_out)


def find_top(folder: Path, depth: int) -> tuple[Path, list[str]]:
    """The folder that holds the class folders, or train/ and val/: many archives have one folder at
    the top with everything in it. Also the files that were passed on the way, a README say.

    Args:
        depth: levels of folders that must be left below it.
    """
    passed: list[str] = []
    while True:
        folders, files = entries_of(folder)
        if len(folders) != 1 or folders[0].lower() in PART_WORDS:
            return folder, passed
        inner = folder / folders[0]
        if not _has_levels(inner, depth):
            return folder, passed
        folder, passed = inner, [*passed, *files]


def _has_levels(folder: Path, depth: int) -> bool:
    folders, _ = entries_of(folder)
    return depth == 0 or any(_has_levels(folder / name, depth - 1) for name in folders)


# Unpacking ----------------------------------------------------------------------------------------


def _unpack_into(folder: Path, path: Path, progress: Progress) -> list[LeftOut]:
    """Write every file of the archive below `folder`; gives what was left out."""
    archive_bytes = path.stat().st_size
    room = shutil.disk_usage(folder).free - KEPT_FREE_BYTES
    left_out: list[LeftOut] = []
    total = behind = num_files = 0
    with (
        open_archive(path) as members,
        progress.task(f"unpacking {path.name}", archive_bytes, in_bytes=True) as task,
    ):
        for member in members:
            if leads_out(member.name):
                raise SourceError(
                    "this archive holds a name that leads out of its folder",
                    given=f"{path}: {shown(member.name)}",
                    valid="names such as ants/1.jpg, neither absolute nor with ..",
                    fix=_BY_HAND,
                )
            total, num_files = total + member.num_bytes, num_files + 1
            _check_amount(path, total, num_files, archive_bytes, room)
            if reason := _put(member, folder):
                left_out.append(LeftOut(shown(member.name), reason))
            behind = _advance(task, behind, min(member.done, archive_bytes))
    return left_out


def _advance(task: Task, before: int, now: int) -> int:
    if now > before:
        task.advance(now - before)
    return max(now, before)


def _check_amount(path: Path, total: int, num_files: int, archive_bytes: int, room: int) -> None:
    """Raise SourceError where an archive says that it becomes too much, before it does."""
    problem = None
    if total > max(RATIO_MATTERS_BYTES, MAX_RATIO * archive_bytes):
        problem = f"this archive would become more than {MAX_RATIO} times as large"
    elif num_files > MAX_FILES:
        problem = f"this archive holds more than {MAX_FILES:,} files"
    if problem:
        raise SourceError(problem, given=f"{path}: {size(archive_bytes)}", fix=_BY_HAND)
    if total > room:
        raise SourceError(
            "the disk is too full to unpack this archive",
            given=f"{path}: at least {size(total)} to come, {size(max(0, room))} to be had in "
            f"{cache_directory()}",
            fix="make room, or name another cache directory in FIELDMARK_CACHE",
        )


def _put(member: Member, folder: Path) -> str | None:
    """Write one member below `folder`; why not, where that cannot be."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if not parts or any(map(is_litter, parts)):
        return None
    if member.kind not in ("file", "folder"):
        return f"{member.kind} in the archive, which is not followed"
    target = folder.joinpath(*parts)
    try:
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return "there before in the archive, under the same name"
    except (OSError, ValueError) as error:
        return _no_such_name(error)
    return _write(member, target)


def _write(member: Member, target: Path) -> str | None:
    try:
        stream = target.open("xb")
    except (OSError, ValueError) as error:
        return _no_such_name(error)
    with stream:
        try:
            with member.open() as content:
                for chunk in _chunks(content, member.num_bytes):
                    stream.write(chunk)
            return None
        except NotImplementedError as error:
            reason = f"packed in a way that Python does not read: {error}"
        except DAMAGE as error:
            if not member.is_apart:
                raise
            reason = f"damaged in the archive: {error}"
    target.unlink()
    return reason


def _no_such_name(error: Exception) -> str:
    """A name too long or with odd characters, or a file where a folder should be."""
    return f"no file can be called so here: {getattr(error, 'strerror', None) or error}"


def _chunks(content: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    """The content; never more than the archive has said, whatever comes out of it."""
    left = num_bytes
    while left > 0 and (chunk := content.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk
