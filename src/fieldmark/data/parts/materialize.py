"""Pictures put into a folder for each part and class: copied, linked, or written out of a bundle.

Sources are only ever read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from PIL import Image

from fieldmark.data.pictures import read_bundled, read_encoded
from fieldmark.errors import OutputError, PictureError
from fieldmark.progress import Progress, size
from fieldmark.types import LeftOut, Sample

Form = Literal["copy", "link"]
_AS_TABLE: Final = "write a table, which takes any name: fieldmark split SOURCE NAME.csv --manifest"
_CHUNK: Final = 1 << 20
_BLOCK: Final = 4096  # what a file takes on a disk is a whole number of these
_HASHED: Final = re.compile(r"(?P<bundle>.+)#(?P<index>\d+)", re.DOTALL)
_ENDINGS: Final = (
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"\x89PNG", ".png"),
    (rb"GIF8", ".gif"),
    (rb"RIFF....WEBP", ".webp"),
    (rb"BM", ".bmp"),
    (rb"II\*\x00|MM\x00\*", ".tif"),
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture and the name it gets.

    Attributes:
        sample: as it was found.
        name: PART/FOLDER/FILE, with forward slashes; the folder is that of the class.
        kind: a file of its own; the bytes of one inside another file; or an array of pixels, which
            is written as PNG.
        num_bytes: what it takes at most.
    """

    sample: Sample
    name: str
    kind: Literal["file", "encoded", "pixels"]
    num_bytes: int


def class_folders(labels: Iterable[str]) -> dict[str, str]:
    """The folder of each class: its name, with `_` for each `/` and `\\`.

    Raises:
        OutputError: a class name cannot be a folder's, or two would share one by that.
    """
    folders = {label: re.sub(r"[/\\]", "_", label) for label in sorted(set(labels))}
    by_folder: dict[str, str] = {}
    for label, folder in folders.items():
        _check_folder_name(label, folder)
        other = by_folder.setdefault(folder.casefold(), label)
        if other != label and (folder != label or folders[other] != other):
            raise OutputError(
                "two classes would share a folder, in which / and \\ become _",
                given=f"{other!r} and {label!r}",
                fix=f"rename one of them in the CSV, or {_AS_TABLE}",
            )
    return folders


def plan_places(samples: Iterable[Sample]) -> tuple[list[Placed], list[LeftOut]]:
    """Names for all pictures, and those that are not there any more.

    A class has no name twice, not even in two parts or in capitals: of two files of one name the
    second becomes `NAME-2.jpg`. The same holds for classes that differ in capitals alone, which
    share a folder on the disks of Windows and macOS. The order of the samples makes no difference.

    Raises:
        OutputError: as of `class_folders`.
    """
    placed, left_out = [], []
    taken: set[tuple[str, str]] = set()
    samples = sorted(samples, key=lambda sample: sample.path)
    folders = class_folders(sample.label for sample in samples)
    for sample in samples:
        place = folders[sample.label].casefold()
        try:
            kind, num_bytes, file_name = _look_at(sample.path)
        except PictureError as error:
            left_out.append(LeftOut(sample.path, error.problem))
            continue
        stem, ending = PurePosixPath(file_name).stem, PurePosixPath(file_name).suffix
        free, number = file_name, 1
        while (place, free.casefold()) in taken:
            number += 1
            free = f"{stem}-{number}{ending}"
        taken.add((place, free.casefold()))
        name = str(PurePosixPath(sample.part, folders[sample.label], free))
        placed.append(Placed(sample, name, kind, num_bytes))
    return placed, left_out


def check_room(folder: Path, placed: Sequence[Placed], form: Form, times: int = 1) -> int:
    """The bytes that writing `placed` takes, if there is room for them.

    Args:
        times: how often all of them are written.

    Raises:
        OutputError: the disk has less.
    """
    written = [item for item in placed if form == "copy" or item.kind != "file"]
    needed = times * sum(-(-item.num_bytes // _BLOCK) * _BLOCK for item in written)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return needed  # said when it is written
    if needed > free:
        raise OutputError(
            "there is not enough room for these pictures",
            given=f"{size(needed)} needed, {size(free)} free in {folder}",
            fix="--link or --manifest take next to none; or free some, or choose another disk",
        )
    return needed


def write_pictures(
    placed: Sequence[Placed], folder: Path, form: Form, progress: Progress
) -> tuple[list[Placed], list[LeftOut]]:
    """Put pictures where `plan_places` says, below `folder`; returns those that were written, and
    those that could not be read.

    Raises:
        OSError: something cannot be written.
        OutputError: no link can be made.
    """
    done, left_out = [], []
    in_bytes = form == "copy"
    total = sum(item.num_bytes for item in placed) if in_bytes else len(placed)
    put = _Linker(folder) if form == "link" else _copy
    made: set[Path] = set()
    title = "copying" if form == "copy" else "linking"
    with progress.task(title, total, in_bytes=in_bytes) as task:
        for item in placed:
            target = folder / item.name
            try:
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                if item.kind == "file":
                    put(Path(item.sample.path), target)
                else:
                    _write_bundled(item, target)
                done.append(item)
            except PictureError as error:
                left_out.append(LeftOut(item.sample.path, error.problem))
                target.unlink(missing_ok=True)
            task.advance(item.num_bytes if in_bytes else 1)
    return done, left_out


def moved(placed: Iterable[Placed], folder: Path) -> tuple[Sample, ...]:
    """The samples where they are once written below `folder`, in the order of their new paths."""
    samples = (replace(item.sample, path=str(folder / item.name)) for item in placed)
    return tuple(sorted(samples, key=lambda sample: sample.path))


def _look_at(path: str) -> tuple[Literal["file", "encoded", "pixels"], int, str]:
    """What a path names, its size, and a file name for it."""
    if (encoded := read_encoded(path)) is not None:
        ending = next((e for pattern, e in _ENDINGS if re.match(pattern, encoded, re.DOTALL)), "")
        return "encoded", len(encoded), _bundle_name(path, ending)
    if (pixels := read_bundled(path)) is not None:
        return "pixels", pixels.nbytes + _BLOCK, _bundle_name(path, ".png")
    try:
        num_bytes = Path(path).stat().st_size
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error
    return "file", num_bytes, Path(path).name.lstrip(".") or "picture"  # hidden files are not found


def _bundle_name(path: str, ending: str) -> str:
    """`train-images-idx3-ubyte-00017.png` for `.../train-images-idx3-ubyte.gz#17`."""
    found = _HASHED.fullmatch(path)
    assert found is not None, path
    stem = Path(found["bundle"]).name.partition(".")[0].lstrip(".") or "picture"
    return f"{stem}-{int(found['index']):05d}{ending}"


def _check_folder_name(label: str, folder: str) -> None:
    odd = "\0" in label or (os.name == "nt" and re.search(r'[<>:"|?*]|[. ]$', label))
    if odd or folder.startswith(".") or len(os.fsencode(folder)) > 255:
        raise OutputError(
            "this class name cannot be a folder's",
            given=repr(label),
            valid="no dot in front, 255 bytes at most"
            + ', none of <>:"|?*, no dot or blank at the end' * (os.name == "nt"),
            fix=f"rename the class in the CSV, or {_AS_TABLE}",
        )


def _copy(source: Path, target: Path) -> None:
    """The bytes and the time of change."""
    try:
        stream = source.open("rb")
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error
    with stream, target.open("xb") as out:  # never over another picture
        while chunk := _read(stream):
            out.write(chunk)
        status = os.fstat(stream.fileno())
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_CHUNK)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error


def _write_bundled(item: Placed, target: Path) -> None:
    if item.kind == "encoded":
        encoded = read_encoded(item.sample.path)
        assert encoded is not None, item
        with target.open("xb") as out:
            out.write(encoded)
        return
    pixels = read_bundled(item.sample.path)
    assert pixels is not None, item
    with target.open("xb") as out:
        Image.fromarray(pixels).save(out, "PNG")


class _Linker:
    """Makes links: symbolic ones, and hard ones where the system refuses those."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ways: list[Callable[[Path, Path], None]] = [
            lambda source, target: target.symlink_to(source),
            lambda source, target: target.hardlink_to(source),
        ]

    def __call__(self, source: Path, target: Path) -> None:
        source = source.absolute()
        if not os.path.lexists(source):
            raise PictureError("no such file")
        reasons = []
        for way in tuple(self.ways):
            try:
                way(source, target)
                return
            except (OSError, NotImplementedError) as error:
                self.ways.remove(way)  # what is refused once is not tried for every picture
                reasons.append(str(getattr(error, "strerror", None) or error))
        raise OutputError(
            "no links can be made here, neither symbolic nor hard ones",
            given=f"{self.folder.parent}: {'; '.join(reasons)}",
            valid="symbolic links where the system allows them; hard links on the disk on which "
            "the pictures are",
            fix="--copy, or --manifest, which writes a table alone",
        )
