"""IDX files, the format of MNIST and its family: read, checked, and paired with their labels.

Layout (LeCun's MNIST page, "the IDX file format"): two zero bytes, a type code, the number of
dimensions, each dimension as a big-endian uint32, then the values. Type 0x08 is the unsigned byte,
the only one that pictures and class numbers come in.
"""

from __future__ import annotations

import gzip
import math
import struct
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fieldmark.errors import SourceError
from fieldmark.types import Part, Sample

_TYPE_NAMES: Final = {
    0x08: "unsigned bytes",
    0x09: "signed bytes",
    0x0B: "16-bit whole numbers",
    0x0C: "32-bit whole numbers",
    0x0D: "32-bit floats",
    0x0E: "64-bit floats",
}
_DAMAGED_FIX: Final = "download or copy the file again"

# Pictures are asked for one by one, from several threads: an archive is unpacked once.
_MAX_CACHED_FILES: Final = 4
_cache: OrderedDict[tuple[str, int, int], NDArray[np.uint8]] = OrderedDict()
_cache_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class IdxPair:
    """An image file and the label file that goes with it."""

    images: Path
    labels: Path
    part: Part | Literal[""]


@dataclass(frozen=True, slots=True)
class IdxFolder:
    """What a folder of IDX files holds. `short_side_px` is that of every picture."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    short_side_px: int
    notes: tuple[str, ...]


def load_idx(path: str | Path, num_dims: int) -> NDArray[np.uint8]:
    """The values of an IDX file, plain or .gz, as a read-only uint8 array of `num_dims` dimensions.

    Recently read files are kept in memory; one that changed on the disk is read again.

    Raises:
        SourceError: missing, not gzip though named so, wrong magic, type or number of dimensions,
            truncated, or bytes left over.
    """
    path = Path(path)
    try:
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        with _cache_lock:
            if key not in _cache:
                _cache[key] = _read(path)
                while len(_cache) > _MAX_CACHED_FILES:
                    _cache.popitem(last=False)
            _cache.move_to_end(key)
            array = _cache[key]
    except OSError as error:
        raise SourceError(
            f"an IDX file cannot be read: {error.strerror or error}",
            given=path,
            fix="check its name and its permissions",
        ) from error
    if array.ndim != num_dims:
        raise SourceError(
            "an IDX file has the wrong number of dimensions",
            given=f"{path}: {array.ndim} dimensions {array.shape}",
            valid="3 for pictures (number, height, width), 1 for labels",
            fix="check that images and labels were not mixed up",
        )
    return array


def _read(path: Path) -> NDArray[np.uint8]:
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not is_gzip:
            if path.suffix == ".gz":
                raise SourceError(
                    "a file named .gz is not gzip",
                    given=path,
                    fix="download it again (a web page may have been saved in its place), "
                    "or drop .gz from its name if it is unpacked already",
                )
            return _parse(stream, path)
        try:
            with gzip.open(stream) as unpacked:
                return _parse(unpacked, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(
                "a .gz file is truncated or damaged",
                given=f"{path}: {error}",
                fix=_DAMAGED_FIX,
            ) from error


def _parse(stream: gzip.GzipFile | IO[bytes], path: Path) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPE_NAMES or not magic[3]:
        raise SourceError(
            "this is not an IDX file",
            given=f"{path}: begins with {magic!r}",
            valid="two zero bytes, a type code, the number of dimensions",
            fix=_DAMAGED_FIX,
        )
    if magic[2] != 0x08:
        raise SourceError(
            "an IDX file holds values of a type that pictures and labels do not have",
            given=f"{path}: {_TYPE_NAMES[magic[2]]}",
            valid="unsigned bytes (type code 0x08)",
            fix="write the file again as unsigned bytes",
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _truncated(path, "it ends inside its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    expected = math.prod(shape)
    # One byte more than promised shows leftovers; never more, so that no archive fills the memory.
    values = stream.read(expected + 1)
    if len(values) < expected:
        raise _truncated(path, f"{len(values):,} of {expected:,} values are there")
    if len(values) > expected:
        raise SourceError(
            "an IDX file holds more than its header says",
            given=f"{path}: bytes follow the {expected:,} values of shape {shape}",
            fix=_DAMAGED_FIX,
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _truncated(path: Path, how: str) -> SourceError:
    return SourceError("an IDX file is truncated", given=f"{path}: {how}", fix=_DAMAGED_FIX)


def find_idx_pairs(folder: Path) -> list[IdxPair]:
    """The image files of `folder` with their label files; empty where there is no IDX file.

    A file and its .gz count as one; the unpacked one is taken because it is quicker to read.

    Raises:
        SourceError: images without labels, labels without images, or two pairs for one part.
    """
    files = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_file()}
    images = [
        name for name in files if fnmatch(name, "*images*idx3*") and _is_preferred(name, files)
    ]
    labels = [
        name for name in files if fnmatch(name, "*labels*idx1*") and _is_preferred(name, files)
    ]
    pairs = []
    for name in images:
        wanted = name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        match = next((label for label in labels if label.removesuffix(".gz") == wanted), None)
        if match is None:
            raise SourceError(
                "an IDX file of pictures has no labels beside it",
                given=files[name],
                valid=f"{wanted} or {wanted}.gz in the same folder",
                fix="put the label file there (all IDX files belong in one folder)",
            )
        labels.remove(match)
        pairs.append(IdxPair(files[name], files[match], _part_of(name)))
    if labels:
        raise SourceError(
            "an IDX file of labels has no pictures beside it",
            given=files[labels[0]],
            valid="a file named *images*idx3* for every *labels*idx1*",
            fix="put the image file there (all IDX files belong in one folder)",
        )
    parts = [pair.part for pair in pairs]
    if len(set(parts)) < len(parts):
        raise SourceError(
            "several IDX files claim the same part",
            given=", ".join(pair.images.name for pair in pairs),
            valid="one *train*images*idx3* and at most one *t10k* or *test*",
            fix="keep one set of IDX files a folder",
        )
    return sorted(pairs, key=lambda pair: ("train", "", "val", "test").index(pair.part))


def _is_preferred(name: str, files: dict[str, Path]) -> bool:
    return not (name.endswith(".gz") and name.removesuffix(".gz") in files)


def _part_of(name: str) -> Part | Literal[""]:
    if "train" in name:
        return "train"
    if "t10k" in name or "test" in name:
        return "test"
    return "val" if "val" in name else ""


def read_idx_folder(folder: Path, pairs: list[IdxPair]) -> IdxFolder:
    """The samples of `pairs`; a lone pair comes without a part, whatever its name.

    Classes are in numeric order. Their names are the numbers, or the lines of `classes.txt`.

    Raises:
        SourceError: a file is damaged, the counts differ, or a label has no name.
    """
    names = _read_class_names(folder)
    samples: list[Sample] = []
    seen: set[int] = set()
    sides: list[tuple[int, int]] = []
    for pair in pairs:
        images = load_idx(pair.images, 3)
        labels = load_idx(pair.labels, 1)
        if len(images) != len(labels):
            raise SourceError(
                "an IDX file of pictures and its labels do not match",
                given=f"{len(images):,} pictures in {pair.images.name}, "
                f"{len(labels):,} labels in {pair.labels.name}",
                valid="as many labels as pictures",
                fix="get both files from the same place",
            )
        if min(images.shape[1:]) < 1:
            raise SourceError(
                "the pictures of an IDX file have no pixels",
                given=f"{pair.images}: {images.shape}",
                fix=_DAMAGED_FIX,
            )
        numbers = labels.tolist()
        seen.update(numbers)
        if names and max(numbers, default=0) >= len(names):
            raise SourceError(
                "classes.txt has no name for a label",
                given=f"label {max(numbers)} in {pair.labels.name}, {len(names)} names",
                valid="one name a line; the first line is label 0",
                fix=f"complete {folder / 'classes.txt'}, or remove it to use the numbers",
            )
        part = pair.part if len(pairs) > 1 else ""
        sides.append(images.shape[1:])
        samples += [
            Sample(f"{pair.images}#{i}", names[number] if names else str(number), part)
            for i, number in enumerate(numbers)
        ]
    absent = [name for number, name in enumerate(names) if number not in seen]
    notes = (f"No picture has the label {', '.join(absent)}: left out.",) if absent else ()
    if not names:
        notes = ("The classes are called by their numbers; data.class_names can name them.",)
    ordered = [names[number] if names else str(number) for number in sorted(seen)]
    return IdxFolder(tuple(samples), tuple(ordered), min(map(min, sides)), notes)


def _read_class_names(folder: Path) -> list[str]:
    path = folder / "classes.txt"
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            "classes.txt cannot be read", given=f"{path}: {error}", fix="save it as UTF-8 text"
        ) from error
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) < len(names):
        raise SourceError(
            "classes.txt does not name each class once",
            given=f"{path}: {names}",
            valid="one name a line, no empty line, no name twice; the first line is label 0",
            fix="put it right, or remove it to use the numbers",
        )
    return names
