"""Data sets known by name whose pictures are arrays: `mnist#17` is one of them.

`fieldmark train digits` needs neither a file nor a network; the others are downloaded once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fieldmark.data.sources.cifar import load_cifar, unpack_cifar
from fieldmark.data.sources.fetch import fetch_files, is_here, is_prepared, prepared_folder
from fieldmark.data.sources.idx import load_idx
from fieldmark.data.sources.known import KNOWN_SETS, KnownSet
from fieldmark.errors import SourceError, check_choice
from fieldmark.progress import Progress, Silent
from fieldmark.types import Part

# Those that `load_named` gives; the rest of the table are archives of class folders.
NAMED_SOURCES: Final = tuple(name for name, known in KNOWN_SETS.items() if known.kind != "archive")


@dataclass(frozen=True, slots=True)
class NamedPictures:
    """All of a named data set.

    Attributes:
        images: (n, h, w) uint8, grey, or (n, h, w, 3), RGB; read-only.
        labels: the class name of each picture.
        parts: train or test, as its authors have it; "" where they have none.
        class_names: in their natural order.
    """

    images: NDArray[np.uint8]
    labels: tuple[str, ...]
    parts: tuple[Part | Literal[""], ...]
    class_names: tuple[str, ...]


_loaded: dict[str, NamedPictures] = {}
_lock = threading.Lock()


def load_named(name: str, progress: Progress | None = None) -> NamedPictures:
    """The data set called `name`, loaded once and kept.

    Args:
        progress: where a download is told of; None means that there shall be none.

    Raises:
        SourceError: no data set has that name, or it is not on this machine and shall not be
            downloaded.
        DownloadError: it is not to be had.
    """
    check_choice("data set", name, NAMED_SOURCES, error=SourceError)
    with _lock:
        if name not in _loaded:
            known = KNOWN_SETS[name]
            if progress is None and not is_here(known):
                raise SourceError(
                    f"the data set {name} is not on this machine",
                    given=name,
                    fix=f"get it with `fieldmark datasets --get {name}`",
                )
            _loaded[name] = _load(known, progress or Silent())
        return _loaded[name]


def _load(known: KnownSet, progress: Progress) -> NamedPictures:
    if known.kind == "inside":
        return _load_digits(known)
    if known.kind == "cifar":
        folder = prepared_folder(known)
        if not is_prepared(known):
            archive = fetch_files(known, progress)[0]
            unpack_cifar(archive, folder, len(known.class_names), progress)
        return _named(known, *load_cifar(folder))
    paths = fetch_files(known, progress)
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    for file, path in zip(known.files, paths, strict=True):
        if "images" in file.name:
            images.append(load_idx(path, 3))
        else:
            labels.append(load_idx(path, 1))
    parts: list[Part] = ["train"] * len(labels[0])
    parts += ["test"] * len(labels[1])
    return _named(known, np.concatenate(images), np.concatenate(labels), parts)


def _named(
    known: KnownSet,
    images: NDArray[np.uint8],
    numbers: NDArray[np.uint8],
    parts: Sequence[Part | Literal[""]],
) -> NamedPictures:
    images.flags.writeable = False
    labels = tuple(known.class_names[number] for number in numbers.tolist())
    return NamedPictures(images, labels, tuple(parts), known.class_names)


def _load_digits(known: KnownSet) -> NamedPictures:
    from sklearn.datasets import load_digits  # a second to import: only who asks for it pays

    digits = load_digits()
    # The original counts inked pixels in 4x4 cells of a scanned form: 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _named(known, images, digits.target, [""] * len(images))
