"""What a file has for each pixel (grey, palette, transparent, 16 bits ...) as grey or colour."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from fieldmark.errors import PictureError

_GREY_MODES: Final = ("1", "L", "LA", "La", "I")
_BITS_TAG: Final = 258  # BitsPerSample (TIFF 6.0, section 8)


def is_wide(picture: Image.Image) -> bool:
    """More than 8 bits a channel. Pillow gives 16-bit colour as 8, and tells in how it unpacks."""
    tiles = getattr(picture, "tile", ())
    return picture.mode.startswith("I") or any(";16" in str(tile[3]) for tile in tiles)


def is_grey(mode: str) -> bool:
    """Whether pixels of this mode, as Pillow calls it, have no colour."""
    return mode in _GREY_MODES or mode.startswith("I;")


def to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """The picture in mode "L" or "RGB", as `open_picture` says.

    Raises:
        PictureError: its pixels are numbers whose range is not known.
    """
    if picture.mode == "I" or picture.mode.startswith("I;"):
        return _high_byte(picture).convert(mode)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert(mode)
    return picture.convert(mode)


def _high_byte(picture: Image.Image) -> Image.Image:
    """16-bit grey to 8, and 12-bit where the file declares it. The high byte inverts the usual
    widening (v * 257) exactly, and is what Pillow keeps of 16-bit colour; stretching to the
    picture's own range would make brightness mean something else in every file."""
    values: NDArray[Any] = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError("whole-number pixels outside 0-65535: save with 8 or 16 bits")
    bits = picture.tag_v2.get(_BITS_TAG, (16,)) if isinstance(picture, TiffImageFile) else (16,)
    if bits == (32,) and 0 < values.max() < 256:  # as 16 bits it would all be black
        raise PictureError("32-bit pixels all below 256, whose range is not known: save with 8")
    return Image.fromarray((values >> (4 if bits == (12,) else 8)).astype(np.uint8))
