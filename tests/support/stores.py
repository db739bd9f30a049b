"""Stores made by tests: of pictures in memory, and of pictures decoded by the test itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fieldmark.data.pictures import open_picture
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


def load_exact(path: str, preprocess: Preprocess) -> Pixels:
    """A file as the network is shown it."""
    return _made(Form("exact", preprocess), path).pixels


def load_for_crops(path: str, preprocess: Preprocess) -> Pixels:
    """A file as it is stored for random crops on a CPU."""
    return _made(Form("crops", preprocess), path).pixels


def load_canvas(path: str, preprocess: Preprocess) -> tuple[Pixels, float]:
    """A file as it is stored for random crops on a GPU, and its proportions."""
    return tuple(_made(Form("canvas", preprocess), path))


def _made(form: Form, path: str) -> Decoded:
    # Not `Form.decode`, which tests of the cache count.
    return form.make(open_picture(path, form.preprocess.channels, form.decode_px))


def store_of(samples: Sequence[Sample], form: Form, pictures: Sequence[Pixels]) -> PixelStore:
    """A store of pictures that are decoded, in memory. (A canvas shows squares here.)"""
    aspects_n = np.array([pixels.shape[1] / pixels.shape[0] for pixels in pictures])
    return PixelStore(tuple(samples), (), form, InMemory(pictures), aspects_n)


def streamed(samples: Sequence[Sample], load: Callable[[str], Pixels]) -> PixelStore:
    """A store that keeps nothing."""
    holder = Streamed(lambda index: load(samples[index].path))
    return PixelStore(tuple(samples), (), FormOf(load=load), holder, np.ones(len(samples)))
