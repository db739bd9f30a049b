"""Pictures side by side with a caption under each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fieldmark.errors import FieldmarkError
from fieldmark.figures.canvas import FAINT, GREEN, INK, RED, new_figure, save_png
from fieldmark.figures.fonts import Lettering, lettering_for

DPI: Final = 150
PICTURE_INCHES: Final = 1.8
GAP_INCHES: Final = 0.16
TITLE_INCHES: Final = 0.35
LINE_INCHES: Final = 0.17  # one line of caption
CAPTION_POINTS: Final = 8.5
MOST_CAPTION_LINES: Final = 2
CAPTION_COLUMNS: Final = 28


def draw_contact_sheet(
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path,
    *,
    title: str = "",
    marks: Sequence[bool | None] | None = None,
) -> None:
    """A grid of pictures as a PNG, 5 columns for 20 pictures.

    Small pictures are enlarged with their pixels kept square and sharp.

    Args:
        pictures: each (h, w), (h, w, 1) grey or (h, w, 3) RGB, uint8, of any size.
        captions: one a picture, any script; `\\n` starts a second line, longer ones are cut.
        marks: True for a right answer (green frame and tick), False for a wrong one (red frame
            and cross), None for no mark.

    Raises:
        FieldmarkError: there are no pictures.
        OutputError: `path` cannot be written.
    """
    if not pictures:
        raise FieldmarkError(
            "there are no pictures to show",
            valid="at least one picture",
            fix="check that the source holds pictures that can be read",
        )
    marks = [None] * len(pictures) if marks is None else marks
    assert len(pictures) == len(captions) == len(marks), (len(pictures), len(captions), len(marks))
    lettering = lettering_for([title, *captions])
    lines = [_caption_lines(caption, lettering) for caption in captions]
    caption_inches = (max(map(len, lines)) + 0.5) * LINE_INCHES
    num_columns = max(round(math.sqrt(1.3 * len(pictures))), min(len(pictures), 4))
    starts = range(0, len(pictures), num_columns)
    # A row is as high as its tallest picture: photographs are mostly wider than high.
    row_inches = [max(map(_inches_high, pictures[i : i + num_columns])) for i in starts]
    top = GAP_INCHES + (TITLE_INCHES if title else 0.0)
    width = num_columns * (PICTURE_INCHES + GAP_INCHES) + GAP_INCHES
    height = top + sum(row_inches) + len(row_inches) * (caption_inches + GAP_INCHES)
    figure = new_figure(width, height, DPI)
    if title:
        _write_title(figure, title, lettering, width, height)
    bottom = height - top
    for start, inches in zip(starts, row_inches, strict=True):
        bottom -= inches
        for column, place in enumerate(range(start, min(start + num_columns, len(pictures)))):
            left = GAP_INCHES + column * (PICTURE_INCHES + GAP_INCHES)
            axes = figure.add_axes(
                (left / width, bottom / height, PICTURE_INCHES / width, inches / height)
            )
            _draw_picture(axes, pictures[place], marks[place])
            _write_caption(axes, lines[place], marks[place], lettering)
        bottom -= caption_inches + GAP_INCHES
    save_png(figure, path)


def _inches_high(picture: NDArray[np.uint8]) -> float:
    height_px, width_px = picture.shape[:2]
    return max(PICTURE_INCHES * min(1.0, float(height_px / width_px)), LINE_INCHES)


def _draw_picture(axes: Axes, picture: NDArray[np.uint8], mark: bool | None) -> None:
    shown = _for_screen(picture)
    # Twice as many pixels on paper as in the picture: squares are wanted. Between, they would
    # come out uneven.
    sharp = 2 * max(shown.shape[:2]) <= PICTURE_INCHES * DPI
    axes.imshow(
        shown,
        cmap="gray",
        vmin=0,
        vmax=255,
        aspect="equal",
        interpolation="nearest" if sharp else "antialiased",
    )
    axes.set_anchor("S")  # pictures of one row stand on one line, just above their captions
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_color(FAINT if mark is None else GREEN if mark else RED)
        spine.set_linewidth(0.8 if mark is None else 2.4)


def _for_screen(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) or (h, w, 3), no larger than the sheet can show: a photo has twenty times too many
    pixels, and matplotlib would carry them all."""
    assert picture.dtype == np.uint8, picture.dtype
    assert picture.ndim in (2, 3) and picture.size, picture.shape  # noqa: PT018
    plain = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    largest_px = round(PICTURE_INCHES * DPI)
    if max(plain.shape[:2]) <= largest_px:
        return plain
    image = Image.fromarray(np.ascontiguousarray(plain))
    image.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _caption_lines(caption: str, lettering: Lettering) -> list[str]:
    lines = caption.splitlines()[:MOST_CAPTION_LINES] or [""]
    return [lettering.line(line, CAPTION_COLUMNS) for line in lines]


def _write_caption(
    axes: Axes, lines: Sequence[str], mark: bool | None, lettering: Lettering
) -> None:
    sign = "" if mark is None else "✓ " if mark else "✗ "
    style: dict[str, Any] = {
        **lettering.style,
        "ha": "center",
        "va": "baseline",
        "color": INK if mark is None else GREEN if mark else RED,
        "annotation_clip": False,
        "xycoords": "axes fraction",
        "textcoords": "offset points",
    }
    for number, line in enumerate(lines):
        words = axes.annotate(
            sign + line if number == 0 else line,
            xy=(0.5, 0),
            xytext=(0, -72 * LINE_INCHES * (number + 1)),
            fontsize=CAPTION_POINTS,
            **style,
        )
        _fit_width(words, PICTURE_INCHES * DPI)


def _write_title(
    figure: Figure, title: str, lettering: Lettering, width: float, height: float
) -> None:
    words = figure.text(
        GAP_INCHES / width,
        1 - GAP_INCHES / height,
        lettering.line(title, 120),
        fontsize=12,
        color=INK,
        va="top",
        **lettering.style,
    )
    _fit_width(words, (width - 2 * GAP_INCHES) * DPI)


def _fit_width(words: Any, most_px: float) -> None:
    """Letters differ in width (MMMM, iiii): shrink what came out too wide."""
    width_px = words.get_window_extent().width
    if width_px > most_px:
        words.set_fontsize(words.get_fontsize() * most_px / width_px)
