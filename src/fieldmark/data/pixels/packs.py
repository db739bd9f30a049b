"""Pack files: many stored pictures, or what was computed of them, in one file, which is whole or
not there.

A pack is a .safetensors file: a header in JSON that says where each tensor lies, then their bytes.
Ours has a tensor (h, w, c) uint8 for each picture, called `CONTENT@ASPECT` after the hash of the
picture's file; or floats of any shape for each view of it, called `CONTENT@VIEW`. It is written
one by one under a hidden name, and gets header and name when it is full, so a crash costs what one
pack holds and leaves nothing that could be mistaken for one. Sealed packs never change; any number
of processes read and write beside each other.

Pictures are read at their place in the file and not through a memory map: as quick for a whole
picture (benchmarks/pixel_store_*.md), the process stays small whatever it has read, and a pack
that somebody cuts short under a running training is a picture decoded again, not a crash.
"""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from fieldmark.data.pixels.form import Decoded
from fieldmark.errors import OutputError

SUFFIX: Final = ".safetensors"
UNSEALED: Final = ".unsealed"

# What a crash can cost at most, and how large a file gets.
PACK_PICTURES: Final = 8192
PACK_BYTES: Final = 256 * 2**20
_SYNC_BYTES: Final = 32 * 2**20  # are brought to the disk at a time

# As the format calls the types of numbers, and as numpy does.
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "U8": np.dtype("<u1"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}

# A header entry is a name of 64 digits and a tag, and some 60 characters about the tensor.
ENTRY_BYTES: Final = 200
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_OPEN_FILES: Final = 64  # a process on macOS may have 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture, or another tensor, lies.

    Attributes:
        pack: the file.
        offset: of its first byte in the file.
        shape: (h, w, c) of a picture.
        tag: the number beside the content in its name.
        dtype: uint8 of a picture.
    """

    pack: Path
    offset: int
    shape: tuple[int, ...]
    tag: float
    dtype: np.dtype[Any]

    @property
    def aspect(self) -> float:
        """Of a picture; see `Decoded`."""
        return self.tag

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class PackWriter:
    """Puts pictures into new packs of a folder. Not for several threads at once.

    Args:
        num_expected: pictures that will come; room for the header is left by it.
        what: is written, in the words of an error.
    """

    def __init__(self, folder: Path, num_expected: int, what: str = "decoded pictures") -> None:
        self.folder, self.what = folder, what
        self.num_pictures = max(1, min(num_expected, PACK_PICTURES))  # of a pack
        self._header_bytes = self.num_pictures * ENTRY_BYTES
        self._stream: BinaryIO | None = None
        self._entries: dict[str, dict[str, object]] = {}
        self._end = 0
        self._synced = 0
        self._sync: threading.Thread | None = None

    def add(self, content: str, picture: Decoded) -> None:
        """Write a picture; it can be found once its pack is sealed.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        self.add_tensor(content, picture.aspect, picture.pixels)

    def add_tensor(self, content: str, tag: float, tensor: npt.NDArray[Any]) -> None:
        """Write a tensor of uint8, float16 or float32; raises as `add`.

        Args:
            tag: tells it from others of this content.
        """
        tensor = np.ascontiguousarray(tensor)
        try:
            if self._stream is None:
                self._stream = self._begin()
            self._stream.write(tensor.data)
        except OSError as error:
            raise self._cannot_write(error) from error
        name = f"{content}@{tag!r}"
        assert name not in self._entries, name
        self._entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._end, self._end + tensor.nbytes],
        }
        self._end += tensor.nbytes
        self._sync_beside(self._stream)
        if len(self._entries) >= self.num_pictures or self._end >= PACK_BYTES:
            self.seal()

    def seal(self) -> None:
        """Give the pack that is being written its header and its name.

        Raises:
            OutputError: the disk is full.
        """
        if self._stream is None:
            return
        stream, unsealed = self._stream, Path(self._stream.name)
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        assert len(header) <= self._header_bytes, len(header)
        self._wait_for_sync()
        try:
            with stream:
                stream.seek(0)
                stream.write(self._header_bytes.to_bytes(8, "little"))
                stream.write(header.ljust(self._header_bytes))
                stream.flush()
                os.fsync(stream.fileno())
            unsealed.rename(unsealed.with_suffix(SUFFIX))
        except OSError as error:
            raise self._cannot_write(error) from error
        self._forget()

    def discard(self) -> None:
        """Throw away what is not sealed."""
        if self._stream is not None:
            self._wait_for_sync()
            unsealed = Path(self._stream.name)
            with suppress(OSError):
                self._stream.close()
            with suppress(OSError):
                unsealed.unlink()
            self._forget()

    def _sync_beside(self, stream: BinaryIO) -> None:
        """Have the disk take what there is while more is decoded: `seal` then waits for little."""
        if self._end - self._synced < _SYNC_BYTES or (self._sync and self._sync.is_alive()):
            return
        self._synced = self._end

        def sync() -> None:
            # Opened anew: a failure must be left for `seal` to see, which closes the other one.
            with suppress(OSError), Path(stream.name).open("rb") as same:
                os.fsync(same.fileno())

        self._sync = threading.Thread(target=sync, name="fieldmark-sync")
        self._sync.start()

    def _wait_for_sync(self) -> None:
        if self._sync is not None:
            self._sync.join()
            self._sync = None

    def _begin(self) -> BinaryIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        stream = (self.folder / f"pack-{uuid.uuid4().hex[:16]}{UNSEALED}").open("xb")
        stream.seek(8 + self._header_bytes)
        return stream

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.what} cannot be written: {error.strerror or error}",
            given=self.folder,
            fix="make room, name another cache directory in FIELDMARK_CACHE, or take --cache ram "
            "or none",
        )

    def _forget(self) -> None:
        self._stream, self._entries, self._end, self._synced = None, {}, 0, 0


def read_index(pack: Path) -> Iterator[tuple[str, Place]]:
    """The contents of a pack and where each lies; nothing where the file is not a whole pack."""
    try:
        with pack.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                return
            entries = json.loads(stream.read(length))
            size = os.fstat(stream.fileno()).st_size
        places = []
        for name, entry in entries.items():
            content, _, tag = name.rpartition("@")
            start, end = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
            place = Place(pack, 8 + length + start, shape, float(tag), dtype)
            if end - start != place.num_bytes or 8 + length + end > size:
                return
            places.append((content, place))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    yield from places


class PackReader:
    """Reads pictures out of packs, from any thread; keeps some files open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, place: Place) -> npt.NDArray[Any] | None:
        """The picture, or other tensor; None where the pack is gone or has become shorter."""
        tensor = np.empty(place.shape, place.dtype)
        try:
            with self._lock:
                descriptor = self._descriptor(place.pack)
            count = descriptor.read_into(tensor.reshape(-1).view(np.uint8).data, place.offset)
        except OSError:
            return None
        return tensor if count == tensor.nbytes else None

    def _descriptor(self, pack: Path) -> _Descriptor:
        if pack not in self._open:
            self._open[pack] = _Descriptor(pack)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(pack)
        return self._open[pack]


class _Descriptor:
    """An open file, closed when the last reader has let go of it."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from the file; returns how many bytes there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self._number, [buffer], offset)
        with self._lock:  # Windows: one file has one position
            os.lseek(self._number, offset, os.SEEK_SET)
            data = os.read(self._number, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __del__(self) -> None:
        if hasattr(self, "_number"):  # else it could not be opened
            os.close(self._number)
