"""What a zip or a tar holds, one member after the other, in one shape for both."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Final

from fieldmark.errors import SourceError

_TAR_ENDINGS: Final = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz"),
)
ARCHIVE_ENDINGS: Final = (".zip", *_TAR_ENDINGS)
# What reading a member may raise where its bytes are not what they should be.
DAMAGE: Final = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    EOFError,
)
_UTF8_FLAG: Final = 0x800  # of a zip's member (APPNOTE 4.4.4, bit 11)
_LOCKED_FLAG: Final = 0x1  # bit 0
_UNIX: Final = 3  # the system that made it, as APPNOTE 4.4.2 numbers them
_BLOCK: Final = 512  # of a tar


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: with `/` between folders, as the archive has it.
        kind: "file", "folder", or what else it is, for people.
        num_bytes: once unpacked, as the archive says.
        done: bytes of the archive that are behind us when this member is.
        is_apart: damage in it costs nothing else; a broken tar is broken from there on.
        open: the content. Raises what `DAMAGE` lists, NotImplementedError, OSError.
    """

    name: str
    kind: str
    num_bytes: int
    done: int
    is_apart: bool
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """By its name alone, which is how people tell one."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS)


@contextmanager
def open_archive(path: Path) -> Iterator[Iterator[Member]]:
    """The members in the order of the archive.

    Raises:
        SourceError: it is no archive, damaged as a whole, or locked with a password.
    """
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as opened:
                yield _in_zip(opened, path)
        else:
            with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as opened_tar:
                yield _in_tar(opened_tar, raw)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # how bz2 says that its stream is broken
            raise _damaged(path, error) from error
        raise


def _damaged(path: Path, error: BaseException) -> SourceError:
    told = " ".join(str(error).split())[:120] or type(error).__name__
    return SourceError(
        "this archive is damaged, truncated, or no archive",
        given=f"{path}: {told}",
        valid=f"a file {', '.join(ARCHIVE_ENDINGS)}",
        fix="download or copy it again (a web page may have been saved in its place)",
    )


def _in_zip(opened: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    done = 0
    for info in opened.infolist():
        if info.flag_bits & _LOCKED_FLAG:
            raise SourceError(
                "this zip is locked with a password",
                given=f"{path}: {info.filename}",
                fix="unpack it with its password, and name the folder it unpacks to",
            )
        done += info.compress_size
        mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
        kind = "folder" if info.is_dir() else "file"
        if kind == "file" and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            kind = "a link" if stat.S_ISLNK(mode) else "a special file"
        name = _name_in_zip(info)
        yield Member(name, kind, info.file_size, done, True, partial(opened.open, info))


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Many programs write UTF-8 without saying so, which Python reads as code page 437; and some
    on Windows part folders by backslashes."""
    name = info.filename
    if not info.flag_bits & _UTF8_FLAG:
        with suppress(UnicodeError):  # truly of that code page, or of one that nothing tells
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if "/" not in name else name


def _in_tar(opened: tarfile.TarFile, raw: IO[bytes]) -> Iterator[Member]:
    for info in opened:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "a special file"
        if info.issym() or info.islnk():
            kind = "a link"
        num_bytes = info.size if info.isreg() else 0
        content = partial(_content, opened, info)
        yield Member(info.name, kind, num_bytes, raw.tell(), False, content)
    # Python ends in silence where a header is damaged or cut, or the rest is missing. A whole
    # archive ends with blocks of zeros (POSIX.1, ustar).
    stream = opened.fileobj
    assert stream is not None
    stream.seek(opened.offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("it does not end as a tar does")


def _content(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(info)
    assert content is not None, info.name  # only asked of files
    return content


def leads_out(name: str) -> bool:
    """Whether a member's name is absolute, or climbs out of the folder it is unpacked to."""
    is_absolute = name.startswith(("/", "\\")) or PureWindowsPath(name).is_absolute()
    return is_absolute or ".." in name.replace("\\", "/").split("/")
