"""Stores made by tests: of pictures in memory, and of pictures decoded by the test itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fieldmark.data.pixels.form import Decoded, Form, Kind
from fieldmark.data.pixels.holders import InMemory, Streamed
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import Pixels
from fieldmark.types import Preprocess, Sample

PLAIN = Preprocess(16, 3, (0.0,) * 3, (1.0,) * 3)


@dataclass(frozen=True)
class FormOf(Form):
    """A form whose pictures come out of `load`, given the path."""

    kind: Kind = "exact"
    preprocess: Preprocess = PLAIN
    load: Callable[[str], Pixels] = lambda path: np.zeros((16, 16, 3), np.uint8)

    def decode(self, path: str) -> Decoded:
        pixels = self.load(path)
        return Decoded(pixels, pixels.shape[1] / pixels.shape[0])


def store_of(samples: Sequence[Sample], form: Form, pictures: Sequence[Pixels]) -> PixelStore:
    """A store of pictures that are decoded, in memory. (A canvas shows squares here.)"""
    aspects_n = np.array([pixels.shape[1] / pixels.shape[0] for pixels in pictures])
    return PixelStore(tuple(samples), (), form, InMemory(pictures), aspects_n)


def streamed(samples: Sequence[Sample], load: Callable[[str], Pixels]) -> PixelStore:
    """A store that keeps nothing."""
    holder = Streamed(lambda index: load(samples[index].path))
    return PixelStore(tuple(samples), (), FormOf(load=load), holder, np.ones(len(samples)))
