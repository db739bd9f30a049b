"""What all pictures share: colours, plain axes, and a PNG that is whole or not there.

Figures are made without pyplot: no global state, any thread, the user's backend untouched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fieldmark.files import atomic_path

# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#00875F"  # a little darker than theirs, to be read as text on white
RED: Final = "#C1272D"
INK: Final = "#222222"
GREY: Final = "#767676"
FAINT: Final = "#E3E3E3"


def new_figure(width_inches: float, height_inches: float, dpi: int) -> Figure:
    """An empty white figure that no backend knows of."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """Horizontal help lines, no frame; colours given, so that a user's style cannot hide them."""
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    axes.grid(True, axis="y", color=FAINT, linewidth=0.8, linestyle="-")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
    axes.tick_params(colors=INK, length=0, labelsize=9.5, labelcolor=INK)
    axes.tick_params(axis="x", length=3, color=GREY)


def save_png(figure: Figure, path: Path, *, crop: bool = False) -> None:
    """Write the figure; with `crop`, empty borders are cut off.

    Raises:
        OutputError: `path` cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=figure.dpi,
            facecolor="white",
            transparent=False,
            bbox_inches="tight" if crop else None,
            pad_inches=0.15,
            metadata={"Software": None},  # equal results give equal files
            # Photos deflated harder are a tenth smaller and take five times as long: a second of a
            # training that takes six.
            pil_kwargs={"compress_level": 1},
        )
