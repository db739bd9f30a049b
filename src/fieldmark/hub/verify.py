"""Is a file in the library's cache the one that the hub meant?

A file is hashed at its first use here, whoever put it into the cache, and then trusted until its
size or time changes: hashing 500 MB takes a second or more, and what goes wrong goes wrong on the
way. Of decay on the disk this knows nothing; delete Fieldmark's cache to have everything hashed.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from fieldmark.download import cache_directory, sha256_of
from fieldmark.errors import OutputError
from fieldmark.files import write_text
from fieldmark.hub.failures import HubError, Kind

SHA256: Final = re.compile(r"[0-9a-f]{64}")
GIT_SHA1: Final = re.compile(r"[0-9a-f]{40}")


def verified(path: Path, cache: Path, etag: str | None = None) -> Path:
    """`path`, whose content has the hash that the hub told; otherwise it is deleted.

    Without `etag` the hash is the name of the file that `path` links to. Where links are not to be
    had (Windows without the right to make them) a file from an earlier day has no hash: it was
    checked on the day it came. Other names than hashes come from mirrors that keep none.

    Raises:
        HubError: the hash is another, or the file cannot be read.
    """
    try:
        told = etag or (path.readlink().name if path.is_symlink() else "")
        state = path.stat()
        if SHA256.fullmatch(told):
            seen = f"{state.st_size} {state.st_mtime_ns}\n"
            note = cache_directory("hub", f"{told}.verified")
            if not _says(note, seen):
                _check_hash(sha256_of(path), told, path, cache)
                with suppress(OutputError):  # a cache that is only read: then hashed each time
                    write_text(note, seen)
        elif GIT_SHA1.fullmatch(told):  # git keeps files of a few MB at most: hashed each time
            _check_hash(_git_sha1_of(path), told, path, cache)
    except OSError as error:
        raise HubError(Kind.HERE, f"cannot read {path}: {error.strerror or error}") from error
    return path


def _says(note: Path, text: str) -> bool:
    with suppress(OSError, ValueError):
        return note.read_text(encoding="ascii") == text
    return False


def _git_sha1_of(path: Path) -> str:
    """As git names the content: it puts the word and the length in front."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_hash(found: str, told: str, path: Path, cache: Path) -> None:
    if found == told:
        return
    left = _delete(path, cache)
    done = f"delete {left}, which could not be done here," if left else "it was deleted;"
    raise HubError(
        Kind.HERE,
        f"{path.name} is damaged: the hub says its hash is {told}, and it is {found}",
        f"{done} run it again, and the file is fetched anew",
    )


def _delete(path: Path, cache: Path) -> Path | None:
    """Remove the file and the links that lead to it; returns what could not be removed."""
    chain = [path]
    while chain[-1].is_symlink():
        target = chain[-1].parent / chain[-1].readlink()
        chain.append(Path(os.path.normpath(target)))
    for one in reversed([one for one in chain if one.is_relative_to(cache)]):
        try:
            one.unlink(missing_ok=True)
        except OSError:
            return one
    return None
