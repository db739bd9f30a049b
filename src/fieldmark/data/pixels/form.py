"""In which form a picture is stored: what decides its bytes, and how it is decoded into them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import PIL
from PIL import Image, features

from fieldmark.data.pictures import Probe, open_picture, probe_pictures
from fieldmark.data.preprocess import (
    DECODE_MARGIN,
    MAX_ASPECT,
    STORE_MARGIN,
    STORE_SPARE,
    Pixels,
    canvas_pixels,
    decode_px,
    exact_pixels,
    store_scale,
    whole_pixels,
)
from fieldmark.progress import Silent
from fieldmark.types import Preprocess

Kind = Literal["exact", "crops", "canvas"]

# Goes up whenever the same picture would come out of the decoding functions with other bytes.
FORM_VERSION: Final = 2

_NUM_PROBED: Final = 1000  # headers that an estimate rests on


class Decoded(NamedTuple):
    """One stored picture.

    Attributes:
        pixels: (h, w, c) uint8.
        aspect: width / height of what is seen; a canvas is a square whatever it shows.
    """

    pixels: Pixels
    aspect: float


@dataclass(frozen=True)
class Form:
    """How the pictures of a store are made.

    Attributes:
        kind: "exact" is what the network sees in evaluation; "crops" whole pictures in true
            proportions, each of its own size, for random crops on a CPU; "canvas" whole pictures
            squashed into squares of one size, for random crops of whole batches on a GPU.
    """

    kind: Kind
    preprocess: Preprocess

    def decode(self, path: str) -> Decoded:
        """The picture in this form.

        Raises:
            PictureError: the file cannot be used.
        """
        return self.make(open_picture(path, self.preprocess.channels, self.decode_px))

    def make(self, picture: Image.Image) -> Decoded:
        """The same of a picture that was opened with `decode_px`."""
        match self.kind:
            case "canvas":
                return Decoded(*canvas_pixels(picture, self.preprocess))
            case "crops":
                pixels = whole_pixels(picture, self.preprocess)
            case "exact":
                pixels = exact_pixels(picture, self.preprocess)
        return Decoded(pixels, pixels.shape[1] / pixels.shape[0])

    @property
    def decode_px(self) -> int:
        """The short side that a JPEG must keep when it is decoded."""
        return decode_px(self.preprocess, whole=self.kind != "exact")

    @property
    def is_uniform(self) -> bool:
        """Whether all pictures have one shape."""
        return self.kind != "crops"

    @property
    def side_px(self) -> int:
        """Height and width of all pictures of a uniform form."""
        assert self.is_uniform, self.kind
        size = self.preprocess.size
        return size if self.kind == "exact" else round(size * STORE_MARGIN)

    @cached_property
    def name(self) -> str:
        """The same for two forms only where they give the same bytes; fit for a folder's name."""
        digest = hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()
        return f"{self.kind}-{self.preprocess.size}px-{digest[:16]}"

    def describe(self) -> dict[str, Any]:
        """All that decides the bytes. Mean, std and channel order do not: they come later."""
        preprocess = self.preprocess
        return {
            "version": FORM_VERSION,
            # They decode and resize, and their results may change a little between versions.
            "pillow": PIL.__version__,
            "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
            "margins": [STORE_MARGIN, STORE_SPARE, DECODE_MARGIN, MAX_ASPECT],
            "kind": self.kind,
            "size": preprocess.size,
            "channels": preprocess.channels,
            "resize": preprocess.resize,
            "interpolation": preprocess.interpolation,
            "crop_fraction": preprocess.crop_fraction if self.kind == "exact" else None,
        }

    def num_bytes(self, width: int, height: int) -> int:
        """Bytes that a picture of this size takes, give or take a row."""
        preprocess = self.preprocess
        if self.is_uniform:
            return self.side_px**2 * preprocess.channels
        short_px = round(preprocess.size * STORE_MARGIN)
        if preprocess.resize == "squash":
            return min(short_px, max(width, height)) ** 2 * preprocess.channels
        short, long = sorted((width, height))
        long = min(long, round(MAX_ASPECT * short))
        shrink = store_scale(short, short_px)
        return round(short * shrink * long * shrink) * preprocess.channels

    def estimate_bytes(self, paths: Sequence[str]) -> int:
        """Bytes that these pictures will take, by the headers of some of them."""
        if not paths:
            return 0
        # Drawn, not every n-th: names may alternate between kinds (a.jpg, a_thumb.jpg).
        chosen = random.Random(0).sample(list(paths), min(len(paths), _NUM_PROBED))
        probes = probe_pictures(chosen, Silent())
        sizes = [self.num_bytes(p.width, p.height) for p in probes if isinstance(p, Probe)]
        return round(sum(sizes) / max(1, len(sizes)) * len(paths))
