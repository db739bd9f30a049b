"""The error rates of several trainings of one network over their epochs, in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fieldmark.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILION,
    new_figure,
    plain_axes,
    save_png,
)
from fieldmark.figures.curves import (
    MOST_EPOCHS_WITH_MARKERS,
    EpochRow,
    draw_ring,
    epoch_ticks,
)

COLOURS: Final = {"scratch": INK, "frozen": BLUE, "partial": GREEN, "finetune": VERMILION}
LABEL_GAP: Final = 0.095  # least distance of two line labels, share of the panel's height
LEAST_TOP: Final = 0.1  # of the axis: error rates below are not blown up


def draw_error_curves(histories: Mapping[str, Sequence[EpochRow]], path: Path) -> None:
    """Training dashed, validation solid, one colour a mode, as a PNG 1600 px wide.

    The error rate is the share of pictures that were answered wrongly. A ring marks the epoch that
    was kept: the most right on validation, among equals the lowest loss. Training errors are those
    on augmented pictures while the weights moved, so they may well be above validation's.

    Args:
        histories: a row an epoch for each mode, at least one of each.

    Raises:
        OutputError: `path` cannot be written.
    """
    assert histories, "there is nothing to draw"
    assert all(histories.values()), "curves need at least one epoch"
    figure = new_figure(8, 4.4, dpi=200)
    figure.subplots_adjust(left=0.08, right=0.79, bottom=0.12, top=0.88)
    axes = figure.subplots()
    plain_axes(axes)
    every = [row.epoch for rows in histories.values() for row in rows]
    begin, last = min(every), max(every)
    axes.set_title("error rate", loc="left", fontsize=11, color=INK, weight="bold", pad=9)
    axes.set_xlabel("epoch", fontsize=9.5, color=INK)
    axes.set_xticks(epoch_ticks(begin, last))
    room = max(0.25, 0.02 * (last - begin))
    axes.set_xlim(begin - room, last + room)
    errors = {
        mode: ([_error(r.train_accuracy) for r in rows], [_error(r.val_accuracy) for r in rows])
        for mode, rows in histories.items()
    }
    finite = [e for pair in errors.values() for line in pair for e in line if math.isfinite(e)]
    axes.set_ylim(0, min(1.02, 1.06 * max([LEAST_TOP, *finite])))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    ends = []
    for mode, (train, val) in errors.items():
        rows, colour = histories[mode], COLOURS.get(mode, GREY)
        epochs = [row.epoch for row in rows]
        few = len(epochs) <= MOST_EPOCHS_WITH_MARKERS
        axes.plot(epochs, train, color=colour, linestyle=(0, (4, 2)), linewidth=1.2, clip_on=False)
        axes.plot(
            epochs,
            val,
            color=colour,
            linewidth=2,
            marker="o" if few else "",
            markersize=3.5,
            clip_on=False,  # a line along the axis (no error) keeps its full width
        )
        best = _best(rows)
        draw_ring(axes, rows[best].epoch, val[best], colour)
        if math.isfinite(val[best]):
            words = f"{mode}\nkept: {100 * val[best]:.1f} %, epoch {rows[best].epoch}"
            last_seen = [value for value in val if math.isfinite(value)][-1]
            ends.append((last_seen, words, colour))
    _label_ends(axes, ends)
    _explain_lines(axes)
    save_png(figure, path)


def _error(accuracy: float | None) -> float:
    return math.nan if accuracy is None or not math.isfinite(accuracy) else 1 - accuracy


def _best(rows: Sequence[EpochRow]) -> int:
    """The position of the epoch that was kept."""

    def rank(position: int) -> tuple[float, float]:
        row = rows[position]
        accuracy = -1.0 if row.val_accuracy is None else row.val_accuracy
        return accuracy, -(math.inf if row.val_loss is None else row.val_loss)

    return max(range(len(rows)), key=rank)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Each mode's name beside the end of its line, pushed apart where lines end close together."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    places = spread([(value - low) / (high - low) for value, _, _ in ordered], LABEL_GAP)
    for place, (_, words, colour) in zip(places, ordered, strict=True):
        axes.annotate(
            words,
            xy=(1.015, place),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            linespacing=1.15,
            color=colour,
            annotation_clip=False,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Rising places in [0, 1], moved as little as need be to be `gap` apart and within.

    The least squares of all moves: what would overlap is pooled round its mean (isotonic regression
    by pooling adjacent violators; Barlow et al., "Statistical Inference under Order Restrictions",
    1972, ch. 1).
    """
    pools: list[list[float]] = []
    for position, place in enumerate(places):
        pools.append([place - position * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    lowest, highest = gap / 2, 1 - gap / 2 - (len(places) - 1) * gap
    starts = [min(max(fmean(pool), lowest), highest) for pool in pools for _ in pool]
    return [start + position * gap for position, start in enumerate(starts)]


def _explain_lines(axes: Axes) -> None:
    """What dashed, solid and the ring mean, up in the title's line."""
    handles = [
        Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label="training"),
        Line2D([], [], color=GREY, linewidth=2, marker="o", markersize=3.5, label="validation"),
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=8,
            markerfacecolor="white",
            markeredgecolor=GREY,
            markeredgewidth=2,
            label="kept",
        ),
    ]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderaxespad=0.2,
        handlelength=2.4,
        columnspacing=1.6,
    )
