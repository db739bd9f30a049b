"""The error rates of several modes in one picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from fieldmark.errors import OutputError
from fieldmark.figures import canvas, mode_curves
from fieldmark.figures.mode_curves import COLOURS, draw_error_curves, spread


@dataclass(frozen=True)
class Row:
    epoch: int
    train_accuracy: float
    val_accuracy: float | None
    val_loss: float = 0.5
    train_loss: float = 0.5


def history(last: int, final: float) -> list[Row]:
    return [Row(e, final - 0.4 / e, final - 0.3 / e, 1 / e) for e in range(1, last + 1)]


FOUR = {
    "scratch": history(5, 0.7),
    "frozen": history(5, 0.97),
    "partial": history(5, 0.96),
    "finetune": history(5, 0.965),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    made: list[Figure] = []

    def new_figure(*args: float, **words: int) -> Figure:
        made.append(canvas.new_figure(*args, **words))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(mode_curves, "new_figure", new_figure)
    return made


def test_training_is_dashed_validation_solid_from_epoch_one(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_error_curves(FOUR, tmp_path / "e.png")
    axes = figures[0].axes[0]
    lines: Iterator = iter(axes.lines)
    for mode, rows in FOUR.items():
        train, val, ring = next(lines), next(lines), next(lines)
        assert list(train.get_xdata()) == list(val.get_xdata()) == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(train.get_ydata(), [1 - r.train_accuracy for r in rows])
        np.testing.assert_allclose(val.get_ydata(), [1 - r.val_accuracy for r in rows])
        assert train.is_dashed()
        assert not val.is_dashed()
        assert train.get_color() == val.get_color() == COLOURS[mode]
        assert list(ring.get_xdata()) == [5], "the epoch that was kept"
    assert axes.get_xlim()[0] > 0
    assert axes.get_xticks()[0] == 1
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *("training", "validation", "kept")
    ]
    with Image.open(tmp_path / "e.png") as image:
        assert image.size == (1600, 880)


def test_the_names_stand_apart_in_the_order_of_the_lines(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_error_curves(FOUR, tmp_path / "e.png")
    axes = figures[0].axes[0]
    names = [text.get_text().split("\n")[0] for text in axes.texts]
    assert names == ["frozen", "finetune", "partial", "scratch"], "from below"
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figures[0].bbox.x1 for box in boxes)
    assert "frozen\nkept: 9.0 %, epoch 5" in [text.get_text() for text in axes.texts]


def test_the_kept_epoch_is_the_best_by_accuracy_then_loss(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = [Row(1, 0.9, 0.8, 0.1), Row(2, 0.9, 0.9, 0.5), Row(3, 0.9, 0.9, 0.4), Row(4, 1, 0.8)]
    draw_error_curves({"frozen": rows}, tmp_path / "e.png")
    assert list(figures[0].axes[0].lines[2].get_xdata()) == [3]


@pytest.mark.parametrize("last", [1, 2, 31, 400])
def test_any_length_and_no_error_at_all(tmp_path: Path, figures: list[Figure], last: int) -> None:
    perfect = [Row(e, 1.0, 1.0) for e in range(1, last + 1)]
    broken = [Row(1, 0.5, None), Row(2, float("nan"), float("nan"))]
    draw_error_curves({"frozen": perfect, "scratch": broken}, tmp_path / "e.png")
    axes = figures[0].axes[0]
    assert axes.get_ylim()[1] > 0.09
    assert axes.get_xticks()[-1] == max(last, 2)
    assert [text.get_text().split("\n")[0] for text in axes.texts] == ["frozen"]


def test_colours_differ_in_lightness_or_in_blue_and_red() -> None:
    """With protanopia or deuteranopia, roughly, red and green are one: these still differ."""
    seen = [((r + g) / 2, b) for r, g, b in map(to_rgb, COLOURS.values())]
    apart = [np.hypot(*np.subtract(a, b)) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 0.2


@given(st.lists(st.floats(0, 1), max_size=6).map(sorted))
def test_spread_keeps_order_distance_and_bounds(places: list[float]) -> None:
    moved = spread(places, 0.1)
    assert len(moved) == len(places)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))
    assert all(0.05 - 1e-9 <= place <= 0.95 + 1e-9 for place in moved)


def test_spread_leaves_alone_what_is_apart() -> None:
    assert spread([0.2, 0.5, 0.8], 0.1) == pytest.approx([0.2, 0.5, 0.8])


def test_spread_puts_three_that_meet_round_their_place() -> None:
    assert spread([0.3, 0.3, 0.3], 0.1) == pytest.approx([0.2, 0.3, 0.4])


def test_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        draw_error_curves(FOUR, tmp_path / "file" / "e.png")
    for name in ("a.png", "b.png"):
        draw_error_curves(FOUR, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.png", "b.png"}
