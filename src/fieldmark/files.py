"""Files that are either whole or not there. Knows no format."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fieldmark.errors import OutputError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it takes `target`'s place in one step.

    A reader, or a crash at any moment, sees the old file or the new one, never half of it.

    Raises:
        OutputError: the folder cannot be written (no permission, disk full, a file in the way).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files for the owner alone; give what the user's umask would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `target`; on success it becomes `target` in one step, else it is
    removed again, with all that was put into it.

    Raises:
        OSError: `target` is there already, or the folder it lies in cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if os.path.lexists(target):  # POSIX would replace an empty folder without a word
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def claim_directory(directory: Path) -> None:
    """Create `directory` for a new run.

    Raises:
        OutputError: it exists and holds something, or cannot be made or written.
    """
    check_is_unused(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise cannot_write(directory, error) from error


def check_is_unused(directory: Path) -> None:
    """Raise OutputError where `directory` holds something already, or cannot be looked into."""
    try:
        used = directory.is_dir() and any(directory.iterdir())
    except OSError as error:
        raise cannot_write(directory, error) from error
    if used:
        raise OutputError(
            "the output directory exists and is not empty; nothing in it was touched",
            given=directory,
            fix="choose another --name or --out, or remove that directory yourself",
        )


def free_path(target: Path) -> Path:
    """`target`, or the first of `NAME-2.png`, `NAME-3.png` ... beside it that does not exist."""
    return _free(target.with_suffix(""), target.suffix)


def free_directory(target: Path) -> Path:
    """`target`, or the first of `target-2`, `target-3` ... that does not exist."""
    return _free(target, "")  # a dot in a directory's name begins no suffix


def _free(stem: Path, suffix: str) -> Path:
    free, number = stem.with_name(stem.name + suffix), 1
    while free.exists():
        number += 1
        free = stem.with_name(f"{stem.name}-{number}{suffix}")
    return free


def nearest_existing(path: Path) -> Path:
    """`path`, or the first above it that is there; raises OSError where that cannot be told."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_is_free(target: Path) -> None:
    """For a file that a user named: it might be a picture of theirs.

    Raises:
        OutputError: something is there already.
    """
    try:
        taken = target.exists() or target.is_symlink()
    except OSError as error:  # a name longer than any file system admits
        raise cannot_write(target, error) from error
    if taken:
        raise OutputError(
            "this exists already, and was not touched",
            given=target,
            fix="choose another place with --out, or remove it yourself",
        )


def cannot_write(target: Path, error: OSError) -> OutputError:
    """The error to show when `target` could not be written because of `error`."""
    return OutputError(
        f"cannot write: {error.strerror or error}",
        given=target,
        fix="check the permissions and the free space, or choose another place with --out",
    )
