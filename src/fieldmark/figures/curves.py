"""Loss and accuracy over the epochs of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fieldmark.figures.canvas import BLUE, GREY, INK, VERMILION, new_figure, plain_axes, save_png
from fieldmark.figures.fonts import FIRST_FAMILY, Lettering, lettering_for

MOST_EPOCHS_WITH_MARKERS: Final = 30
LINES: Final = (("training", BLUE, "--"), ("validation", VERMILION, "-"))
LABEL_GAP: Final = 0.075  # least distance of two line labels, share of the panel's height


class EpochRow(Protocol):
    """What is drawn of an epoch. Figures may be None or NaN where there were none."""

    @property
    def epoch(self) -> int: ...  # from 1
    @property
    def train_loss(self) -> float | None: ...
    @property
    def train_accuracy(self) -> float | None: ...
    @property
    def val_loss(self) -> float | None: ...
    @property
    def val_accuracy(self) -> float | None: ...


def draw_curves(
    history: Sequence[EpochRow],
    path: Path,
    *,
    best_epoch: int | None = None,
    title: str = "",
) -> None:
    """Two panels, loss and accuracy, training and validation, as a PNG 1600 px wide.

    Args:
        history: one row an epoch, at least one.
        best_epoch: the epoch whose model was kept; None marks none. Which one is best is the
            training loop's to say.

    Raises:
        OutputError: `path` cannot be written.
    """
    assert history, "curves need at least one epoch"
    lettering = lettering_for([title])
    figure = new_figure(8, 3.7 if title else 3.4, dpi=200)
    top = 0.80 if title else 0.88
    figure.subplots_adjust(left=0.07, right=0.90, bottom=0.14, top=top, wspace=0.42)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [row.epoch for row in history]
    losses = [[_number(r.train_loss) for r in history], [_number(r.val_loss) for r in history]]
    _draw_panel(loss_axes, "loss", epochs, losses, best_epoch, lambda loss: f"{loss:.3f}")
    accuracies = [
        [_number(r.train_accuracy) for r in history],
        [_number(r.val_accuracy) for r in history],
    ]
    _draw_panel(
        accuracy_axes, "accuracy", epochs, accuracies, best_epoch, lambda a: f"{100 * a:.1f} %"
    )
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    if title:
        _write_title(loss_axes, title, lettering)
    save_png(figure, path)


def _draw_panel(
    axes: Axes,
    what: Literal["loss", "accuracy"],
    epochs: Sequence[int],
    train_and_val: Sequence[Sequence[float]],
    best_epoch: int | None,
    written: Callable[[float], str],
) -> None:
    plain_axes(axes)
    axes.set_title(what, loc="left", fontsize=11, color=INK, weight="bold", pad=9)
    axes.set_xlabel("epoch", fontsize=9.5, color=INK)
    axes.set_xticks(epoch_ticks(epochs[0], epochs[-1]))
    room = max(0.5, 0.03 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - room, epochs[-1] + room)
    finite = [value for values in train_and_val for value in values if math.isfinite(value)]
    axes.set_ylim(*_limits(what, finite))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ends = []
    for (name, colour, dashes), values in zip(LINES, train_and_val, strict=True):
        axes.plot(
            epochs,
            values,
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            marker="o" if len(epochs) <= MOST_EPOCHS_WITH_MARKERS else "",
            markersize=4,
            solid_capstyle="round",
            clip_on=False,  # a line along the edge (100 %) keeps its full width
        )
        if seen := [value for value in values if math.isfinite(value)]:
            ends.append((seen[-1], f"{name}\n{written(seen[-1])}", colour))
    _label_ends(axes, ends)
    if best_epoch is not None:
        value = train_and_val[1][epochs.index(best_epoch)]
        _mark_best(axes, best_epoch, value, written(value))


def epoch_ticks(first: int, last: int) -> list[int]:
    """Whole epochs to write under a panel: the first, the last, and round ones between."""
    sizes = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(size for size in sizes if (last - first) / size <= 8)
    between = [
        epoch
        for epoch in range(first - first % step, last, step)
        if epoch - first >= step / 2 and last - epoch >= step / 2
    ]
    return sorted({first, *between, last})


def _limits(what: Literal["loss", "accuracy"], values: Sequence[float]) -> tuple[float, float]:
    """The panel's lower and upper end; never so close that noise looks like a trend."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if what == "loss":
        span = max(high - low, 0.2 * abs(high), 1e-3)
        return (0.0 if 0 <= low < 0.5 * high else low - 0.1 * span), high + 0.08 * span
    span = max(high - low, 0.1)
    middle = min(max((low + high) / 2, 0.58 * span), 1 - 0.58 * span)
    return max(0.0, middle - 0.58 * span), min(1.0, middle + 0.58 * span)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name at its end, pushed apart where two lines end close together."""
    low, high = axes.get_ylim()
    places = [(value - low) / (high - low) for value, _, _ in ends]
    if len(ends) == 2 and abs(places[0] - places[1]) < 2 * LABEL_GAP:
        middle = min(max(sum(places) / 2, 2 * LABEL_GAP), 1 - 2 * LABEL_GAP)
        up = 1 if places[0] >= places[1] else -1
        places = [middle + up * LABEL_GAP, middle - up * LABEL_GAP]
    for place, (_, words, colour) in zip(places, ends, strict=True):
        axes.annotate(
            words,
            xy=(1.02, min(max(place, LABEL_GAP), 1 - LABEL_GAP)),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            linespacing=1.15,
            color=colour,
            annotation_clip=False,
        )


def draw_ring(axes: Axes, epoch: int, value: float, colour: str) -> None:
    """Around the figure of the epoch that was kept."""
    axes.plot(
        [epoch],
        [value],
        marker="o",
        markersize=8.5,
        markerfacecolor="white",
        markeredgecolor=colour,
        markeredgewidth=2,
        linestyle="none",
        zorder=5,
        clip_on=False,
    )


def _mark_best(axes: Axes, best_epoch: int, value: float, written: str) -> None:
    axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", zorder=1)
    draw_ring(axes, best_epoch, value, VERMILION)
    # Up in the title's line, where it meets neither the lines nor their names.
    axes.set_title(
        f"○ best: epoch {best_epoch}, {written}",
        loc="right",
        fontsize=9,
        color=GREY,
        pad=9,
        family=FIRST_FAMILY,  # another may lack the circle
    )


def _write_title(axes: Axes, title: str, lettering: Lettering) -> None:
    figure = axes.figure
    figure.text(
        0.012,
        0.965,
        lettering.line(title, 90),
        fontsize=11.5,
        color=INK,
        va="top",
        **lettering.style,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else value
