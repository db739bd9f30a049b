"""The confusion matrix as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from fieldmark.figures.canvas import GREY, INK, new_figure, save_png
from fieldmark.figures.fonts import Lettering, columns, lettering_for

MOST_CLASSES_WITH_COUNTS: Final = 20
MOST_NAME_COLUMNS: Final = 28
MATRIX_INCHES: Final = (2.2, 8.5, 14.0)  # smallest; cells shrink beyond; names thin out beyond
DPI: Final = 160


def draw_confusion(
    confusion_kk: Sequence[Sequence[int]] | NDArray[Any], class_names: Sequence[str], path: Path
) -> None:
    """Rows are the true class, columns the answer; the colour is the share of the row.

    Counts stand in the cells of up to 20 classes. With more, the cells and the names shrink; from
    about 150 classes only every second, third ... name is written.

    Raises:
        OutputError: `path` cannot be written.
    """
    counts = np.asarray(confusion_kk, dtype=np.int64)
    num_classes = len(class_names)
    assert counts.shape == (num_classes, num_classes), counts.shape
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lettering = lettering_for(class_names)
    side = _side_inches(num_classes)
    cell = side / num_classes
    figure = new_figure(side, side, DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # names stand outside; saving crops around them
    # Without counts to read, the square root shows the small shares off the diagonal, which are
    # what one looks for; beside counts it would make a mistake look like a hit.
    has_counts = num_classes <= MOST_CLASSES_WITH_COUNTS
    norm = PowerNorm(1.0 if has_counts else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    _write_names(axes, class_names, lettering, cell)
    _draw_grid(axes, num_classes, cell)
    if has_counts:
        _write_counts(axes, counts, shares, cell)
    bar_axes = figure.add_axes((1 + 0.2 / side, 0, 0.14 / side, 1))
    ticks = [0, 0.25, 0.5, 0.75, 1] if has_counts else [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(image, cax=bar_axes, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks])
    bar.ax.tick_params(labelsize=8.5, length=0, labelcolor=INK)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=9, color=INK)
    save_png(figure, path, crop=True)


def _side_inches(num_classes: int) -> float:
    smallest, shrinking, largest = MATRIX_INCHES
    if num_classes <= MOST_CLASSES_WITH_COUNTS:
        return min(max(0.5 * num_classes, smallest), shrinking)
    return min(max(0.095 * num_classes, shrinking), largest)


def _write_names(
    axes: Axes, class_names: Sequence[str], lettering: Lettering, cell_inches: float
) -> None:
    font_points = min(max(0.72 * cell_inches * 72, 6.0), 10.0)
    every = math.ceil(font_points * 1.15 / 72 / cell_inches)
    places = range(0, len(class_names), every)
    names = lettering.names(class_names, MOST_NAME_COLUMNS)
    shown = [names[place] for place in places]
    style = {**lettering.style, "fontsize": font_points, "color": INK}
    widest_inches = max(map(columns, shown)) * 0.62 * font_points / 72
    upright = widest_inches > 0.95 * cell_inches
    axes.set_yticks(places, shown, **style)
    axes.set_xticks(places, shown, rotation=90 if upright else 0, **style)
    axes.tick_params(length=0 if every == 1 else 2, pad=3, color=GREY)
    note = "" if every == 1 else f"  (1 name in {every} is written)"
    axes.set_ylabel("true class" + note, fontsize=10, color=INK, labelpad=8)
    axes.set_xlabel("predicted class" + note, fontsize=10, color=INK, labelpad=8)


def _draw_grid(axes: Axes, num_classes: int, cell_inches: float) -> None:
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_linewidth(0.6)
    edges = np.arange(num_classes + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(False, which="major")
    width = min(1.0, 3 * cell_inches)
    axes.grid(True, which="minor", color="#D5D5D5", linewidth=width, linestyle="-")


def _write_counts(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell_inches: float
) -> None:
    digits = len(str(counts.max()))
    font_points = min(12.0, 72 * cell_inches * 0.85 / (0.64 * max(digits, 2)))
    for row, column in np.ndindex(counts.shape):
        count = int(counts[row, column])
        axes.text(
            column,
            row,
            str(count),
            ha="center",
            va="center",
            fontsize=font_points,
            # A zero is there to be read, not to be seen first.
            color="#B4B4B4" if count == 0 else "white" if shares[row, column] > 0.3 else INK,
        )
