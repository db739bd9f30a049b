"""Data sets known by name, so that `fieldmark train digits` needs neither a file nor a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.errors import SourceError, check_choice


@dataclass(frozen=True, slots=True)
class NamedPictures:
    """All of a named data set.

    Attributes:
        images: (n, h, w) uint8, grey, read-only.
        labels: the class name of each picture.
        class_names: in their natural order.
    """

    images: NDArray[np.uint8]
    labels: tuple[str, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedSource:
    """One line of the table: what it is, and how to get it."""

    about: str
    load: Callable[[], NamedPictures]


def _load_digits() -> NamedPictures:
    from sklearn.datasets import load_digits  # a second to import: only who asks for it pays

    digits = load_digits()
    # The original counts inked pixels in 4x4 cells of a scanned form: 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images.flags.writeable = False
    return NamedPictures(
        images, tuple(str(number) for number in digits.target), tuple(map(str, range(10)))
    )


NAMED_SOURCES: Final[dict[str, NamedSource]] = {
    "digits": NamedSource(
        "1,797 handwritten digits, 8x8, grey, 10 classes; inside scikit-learn, offline",
        _load_digits,
    ),
}

_loaded: dict[str, NamedPictures] = {}
_lock = threading.Lock()


def load_named(name: str) -> NamedPictures:
    """The data set called `name`, loaded once and kept.

    Raises:
        SourceError: no data set has that name.
    """
    check_choice("data set", name, tuple(NAMED_SOURCES), error=SourceError)
    with _lock:
        if name not in _loaded:
            _loaded[name] = NAMED_SOURCES[name].load()
        return _loaded[name]
