"""Files from the web onto this machine, once: fetched, verified, shared, and offline ever after.

In the cache directory a file `NAME` is either whole or not there. Beside it may lie

    NAME.part        what has arrived so far; the next attempt goes on from there
    .NAME.verified   the hash that was found, with the size and time of the file it was found for
    .NAME.lock       held (not merely there) while a process downloads NAME

so a file that a person puts there as NAME is as good as a downloaded one: it is hashed at its
first use, and trusted until it changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import filelock
import platformdirs

from fieldmark.errors import DownloadError, OutputError
from fieldmark.files import write_text
from fieldmark.progress import Progress, size
from fieldmark.transfer import DiskError, TransferError, discard, transfer

MIN_HASH_DIGITS = 8  # what torch puts into its file names
LOCK_POLL_SECONDS = 0.1
_HASH_VALID = "the 64 hex digits of a sha256, or at least the first 8 of them"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z]\w*$")
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")


def cache_directory(*parts: str) -> Path:
    """Where Fieldmark keeps what it can get again; `parts` name something in it. Not created.

    `FIELDMARK_CACHE` says where, else the platform does (`~/.cache/fieldmark` on Linux).
    """
    told = os.environ.get("FIELDMARK_CACHE", "").strip()
    root = Path(told or platformdirs.user_cache_dir("fieldmark", appauthor=False))
    with suppress(RuntimeError):  # a `~` and no home: then it is a name like any other
        root = root.expanduser()
    return root.absolute().joinpath(*parts)


def public_url(url: str) -> str:
    """The address without what may be a secret: user, password, query, and what is behind '#'."""
    address = re.split(r"[?#]", url.strip(), maxsplit=1)[0]
    scheme, slashes, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def split_url(url: str) -> tuple[str, str | None]:
    """The address without its hash, and the hash in lower case, if there is one.

    It is taken from `#sha256=HEX` behind the address, or from a name as torch gives
    (`resnet50-11ad3fa6.pth`). Eight digits that read as a date are no hash.

    Raises:
        DownloadError: not http or https, or what stands behind `#` is no hash.
    """
    address, fragment = _split_fragment(url)
    if fragment:
        word, _, digits = fragment.partition("=")
        if word.lower() != "sha256":
            raise DownloadError(
                "an address may end in its hash, and in nothing else behind the '#'",
                given=f"{public_url(url)}#{fragment}",
                valid="https://HOST/NAME#sha256=HEX",
                fix="write #sha256= and the hash that is published beside the file",
            )
        return address, _check_hash(digits)
    in_name = _HASH_IN_NAME.search(urlsplit(address).path)
    if in_name and not _DATE.fullmatch(in_name[1]):
        return address, in_name[1]
    return address, None


def sha256_of(path: Path) -> str:
    """The sha256 of the file, 64 hex digits in lower case. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_downloaded(url: str, *, sha256: str, name: str | None = None) -> Path | None:
    """The file of `download` if it is in the cache and was verified there; reads next to nothing.

    What a person has put there is found after the first `download`, which verifies it.

    Raises:
        DownloadError: not an address, or not a hash.
    """
    wanted = _wanted(url, sha256, name)
    return wanted.target if wanted.is_verified() else None


def download(url: str, *, sha256: str, name: str | None = None, progress: Progress) -> Path:
    """The file behind `url`, from the cache or fetched now; never one that was not verified.

    Any number of processes may ask at the same time: one fetches, the others wait.

    Args:
        url: http or https; also the proxies of the environment are used.
        sha256: of the whole file, 64 hex digits or the first 8 or more of them.
        name: what to call the file, where the end of the address says too little.

    Raises:
        DownloadError: it could not be fetched, kept or verified; says where to put it by hand.
    """
    wanted = _wanted(url, sha256, name)
    if wanted.is_verified():
        return wanted.target
    there = _hash_what_is_there(wanted, progress)
    if there is not None and there.startswith(wanted.sha256):
        return wanted.target
    with _lock(wanted, progress):
        if not wanted.is_verified():  # while this one waited, another may have fetched it
            _fetch(wanted, there, progress)
    return wanted.target


@dataclass(frozen=True)
class _Wanted:
    """One file: whence, which, and where it belongs."""

    url: str
    sha256: str
    target: Path

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def note(self) -> Path:
        return self.target.with_name(f".{self.target.name}.verified")

    @property
    def lock(self) -> Path:
        return self.target.with_name(f".{self.target.name}.lock")

    def is_verified(self) -> bool:
        """The file is as it was when it was hashed, and that was the hash."""
        try:
            digest, *state = self.note.read_text(encoding="ascii").split()
            return digest.startswith(self.sha256) and state == _state(self.target)
        except (OSError, ValueError):
            return False

    def remember(self, digest: str, state: list[str]) -> None:
        with suppress(OutputError):  # a cache that is only read: then it is hashed each time
            write_text(self.note, " ".join([digest, *state]) + "\n")

    def error(self, problem: str, *, disk: bool = False) -> DownloadError:
        """`problem`, and how to do without us."""
        url = public_url(self.url)  # a token in it must not end in a log
        command = f"curl -fL --create-dirs -o {shlex.quote(str(self.target))} {shlex.quote(url)}"
        if url != self.url:
            command += ", with the whole of your address"
        steps = [
            "get the file on any machine, and put it exactly here:",
            f"  {self.target}",
            f"  (as in: {command})",
            "then the same command finds and checks it, and needs no network",
        ]
        if disk:
            steps.insert(0, "make room, or name another cache directory in FIELDMARK_CACHE; or")
        with suppress(OSError):
            if have := self.part.stat().st_size:
                kept = f"{size(have)} are kept in {self.part}"
                steps.append(f"or run it again: {kept}, and it goes on from there")
        return DownloadError(
            f"cannot download {self.target.name}: {problem}",
            given=url,
            valid=f"a file whose sha256 {_is(self.sha256)}",
            fix=("\n" + " " * 10).join(steps),
        )


def _wanted(url: str, sha256: str, name: str | None) -> _Wanted:
    address, _ = _split_fragment(url)
    digits = _check_hash(sha256)
    plain = unquote(urlsplit(address).path).rpartition("/")[2] if name is None else name
    return _Wanted(address, digits, cache_directory("downloads", _file_name(plain, digits)))


def _file_name(plain: str, sha256: str) -> str:
    """`plain` as every file system takes it, with the first digits of its hash in it.

    Different files are often called the same (`model.safetensors`), and the same file is asked for
    by a whole hash or by the beginning of it.
    """
    safe = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]+', "_", plain).strip(" .") or "file"
    stem, dot, suffix = safe.rpartition(".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = safe, "", ""
    stem = stem.encode(errors="replace")[:150].decode(errors="ignore")
    key = sha256[:MIN_HASH_DIGITS]
    return f"{stem}{dot}{suffix}" if key in stem else f"{stem}-{key}{dot}{suffix}"


def _split_fragment(url: str) -> tuple[str, str]:
    """The address, known to be one, and what stands behind its `#`."""
    try:
        address, fragment = urldefrag(url.strip())
    except ValueError:  # a bracket that is not closed, which it splits no further than we do
        address, fragment = url, ""
    _check_address(address)
    return address, fragment


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises where it is no number, or none that a port can have
    except ValueError:
        is_address = False
    if not is_address:
        raise DownloadError(
            "this is no address on the web",
            given=public_url(url),
            valid="https://HOST/NAME or http://HOST/NAME",
            fix="write the whole address; a file on this machine needs no download",
        )


def _check_hash(digits: str) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{MIN_HASH_DIGITS},64}}", digits):
        raise DownloadError(
            "this is no sha256",
            given=repr(digits),
            valid=_HASH_VALID,
            fix="copy it from where the file is published, or take it with `sha256sum FILE`",
        )
    return digits.lower()


def _is(sha256: str) -> str:
    return f"is {sha256}" if len(sha256) == 64 else f"begins with {sha256}"


def _state(path: Path) -> list[str]:
    """What changes when a file does. Raises OSError, and for a directory."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(f"{path} is no file")
    return [str(found.st_size), str(found.st_mtime_ns)]


def _hash_what_is_there(wanted: _Wanted, progress: Progress) -> str | None:
    """The hash of the file that stands in the place; None when there is none.

    The right one, put there by hand, is remembered. A wrong one stays until the right one has come.
    """
    try:
        state = _state(wanted.target)  # before the hash: what changes meanwhile is hashed again
        progress.say(f"checking {wanted.target}")
        digest = sha256_of(wanted.target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or error
        raise wanted.error(f"cannot read what is there: {reason}", disk=True) from error
    if digest.startswith(wanted.sha256):
        wanted.remember(digest, state)
    else:
        progress.say(f"it has sha256 {digest}, not the one asked for: fetching it anew")
    return digest


@contextmanager
def _lock(wanted: _Wanted, progress: Progress) -> Iterator[None]:
    """Be the only process to fetch this file. The system frees the lock of one that has died."""
    try:
        wanted.lock.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(wanted.lock)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress.say(f"{wanted.target.name}: another process is fetching it; waiting for it")
            lock.acquire(poll_interval=LOCK_POLL_SECONDS)
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        problem = f"cannot write into {wanted.lock.parent}: {reason}"
        raise wanted.error(problem, disk=True) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(wanted: _Wanted, there: str | None, progress: Progress) -> None:
    """From the web to its place, where a file with the wrong hash `there` may stand."""
    name, part = wanted.target.name, wanted.part
    besides = f"; the file put there by hand has sha256 {there}" if there else ""
    progress.say(f"downloading {name} from {urlsplit(wanted.url).hostname}")
    try:
        pieces = transfer(wanted.url, part, title=name, progress=progress)
        digest = sha256_of(part)
        if not digest.startswith(wanted.sha256) and pieces > 1:
            progress.say(f"{name}: the pieces do not make the file; once more from the start")
            discard(part)
            transfer(wanted.url, part, title=name, progress=progress)
            digest = sha256_of(part)
        if not digest.startswith(wanted.sha256):
            told = f"what came ({size(part.stat().st_size)}) has sha256 {digest}, and was deleted"
            discard(part)
            raise wanted.error(f"{told}; the one asked for {_is(wanted.sha256)}{besides}")
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(wanted.target)
        wanted.remember(digest, _state(wanted.target))
    except TransferError as error:
        raise wanted.error(f"{error}{besides}", disk=isinstance(error, DiskError)) from error
    except OSError as error:
        problem = f"cannot write {wanted.target}: {error.strerror or error}{besides}"
        raise wanted.error(problem, disk=True) from error
