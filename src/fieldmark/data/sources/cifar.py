"""CIFAR-10 in its binary form, made once into arrays that are read where they lie on the disk.

A record is the class number, one byte, then 32x32 red values, as many green and blue ones, each
plane row by row (https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version"). No pickle is read.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fieldmark.data.sources.members import open_archive
from fieldmark.data.sources.once import build_once
from fieldmark.errors import SourceError
from fieldmark.progress import Progress
from fieldmark.types import Part

SIDE_PX: Final = 32
RECORD_BYTES: Final = 1 + 3 * SIDE_PX**2
_FILES: Final[dict[str, Part]] = {
    **{f"data_batch_{number}.bin": "train" for number in range(1, 6)},
    "test_batch.bin": "test",
}
_IMAGES, _LABELS, _NUM_TRAIN = "images.npy", "labels.npy", "num_train.npy"
Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Part, ...]]


def unpack_cifar(archive: Path, folder: Path, num_classes: int, progress: Progress) -> None:
    """Make `folder` out of the archive, unless it is there.

    Raises:
        SourceError: the archive is not CIFAR-10's, or the cache cannot be written.
    """

    def build(half_done: Path) -> None:
        found: dict[str, NDArray[np.uint8]] = {}
        with (
            open_archive(archive) as members,
            progress.task(f"unpacking {archive.name}", len(_FILES)) as task,
        ):
            for member in members:
                name = PurePosixPath(member.name).name
                if name in _FILES and member.kind == "file":
                    with member.open() as content:
                        found[name] = _records(content.read(), archive, name, num_classes)
                    task.advance()
        if missing := [name for name in _FILES if name not in found]:
            raise _not_cifar(archive, f"no {', '.join(missing)} in it")
        labels = np.concatenate([found[name][:, 0] for name in _FILES])
        shape = (len(labels), SIDE_PX, SIDE_PX, 3)
        images = open_memmap(half_done / _IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        first = 0
        for name in _FILES:
            planes = found[name][:, 1:].reshape(-1, 3, SIDE_PX, SIDE_PX)
            images[first : first + len(planes)] = planes.transpose(0, 2, 3, 1)
            first += len(planes)
        images.flush()
        del images  # Windows renames no folder with an open file in it
        np.save(half_done / _LABELS, labels)
        np.save(half_done / _NUM_TRAIN, np.array(first - len(found["test_batch.bin"])))

    build_once(folder, build, what=archive.name, progress=progress)


def load_cifar(folder: Path) -> Pictures:
    """Images (n, 32, 32, 3) and class numbers (n,), uint8, read-only, and the part of each.

    The images stay on the disk until they are looked at.

    Raises:
        SourceError: somebody has changed the folder.
    """
    try:
        images = np.load(folder / _IMAGES, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / _LABELS, allow_pickle=False)
        num_train = int(np.load(folder / _NUM_TRAIN, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(
            "what was unpacked into the cache has been changed",
            given=f"{folder}: {error}",
            fix="remove that folder, and it is unpacked anew",
        ) from error
    parts: list[Part] = ["train"] * num_train
    parts += ["test"] * (len(labels) - num_train)
    labels.flags.writeable = False
    return images, labels, tuple(parts)


def _records(content: bytes, archive: Path, name: str, num_classes: int) -> NDArray[np.uint8]:
    """(n, 3073): class number, then the three planes."""
    if not content or len(content) % RECORD_BYTES:
        raise _not_cifar(archive, f"{name} has {len(content):,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= num_classes:
        raise _not_cifar(archive, f"{name} has the class number {records[:, 0].max()}")
    return records


def _not_cifar(archive: Path, why: str) -> SourceError:
    return SourceError(
        "this is not the archive of CIFAR-10's binary version",
        given=f"{archive}: {why}",
        valid=f"records of {RECORD_BYTES:,} bytes in {', '.join(_FILES)}",
        fix="remove it, and it is downloaded anew",
    )
