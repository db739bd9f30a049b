"""The pictures: written whole, readable, right way round."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fieldmark.errors import FieldmarkError, OutputError
from fieldmark.figures import canvas, confusion, contact_sheet, curves
from fieldmark.figures.confusion import draw_confusion
from fieldmark.figures.contact_sheet import draw_contact_sheet
from fieldmark.figures.curves import draw_curves, epoch_ticks


@dataclass(frozen=True)
class Row:
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None


def history(num_epochs):
    return [
        Row(e, 2 / e, 1 - 0.8 / e, 2 / e + 0.1, 0.9 - 0.7 / e) for e in range(1, num_epochs + 1)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The Figure objects behind the files, for what pixels cannot tell."""
    made: list[Figure] = []

    def new_figure(*args, **kwargs):
        made.append(canvas.new_figure(*args, **kwargs))
        return made[-1]

    for module in (curves, confusion, contact_sheet):
        monkeypatch.setattr(module, "new_figure", new_figure)
    return made


def texts(axes):
    return [text.get_text() for text in axes.texts]


def load(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


# Curves


@pytest.mark.parametrize("num_epochs", [1, 2, 7, 30, 31, 400])
def test_curves_start_at_epoch_one_and_pass_through_the_figures(tmp_path, figures, num_epochs):
    rows = history(num_epochs)
    draw_curves(rows, tmp_path / "c.png", best_epoch=num_epochs, title="蚂蚁 $x$")
    assert load(tmp_path / "c.png").shape[1] == 1600
    for axes, name in zip(figures[0].axes, ("loss", "accuracy"), strict=True):
        assert axes.get_title(loc="left") == name
        assert axes.get_title(loc="right").startswith(f"○ best: epoch {num_epochs}, ")
        train, val = axes.lines[:2]
        assert list(train.get_xdata()) == [row.epoch for row in rows]
        assert list(train.get_ydata()) == [getattr(row, f"train_{name}") for row in rows]
        assert list(val.get_ydata()) == [getattr(row, f"val_{name}") for row in rows]
        ticks = axes.get_xticks()
        assert ticks[0] == 1
        assert ticks[-1] == num_epochs
        assert [text.split("\n")[0] for text in texts(axes)] == ["training", "validation"]
        assert (train.get_marker() == "o") == (num_epochs <= 30)


@pytest.mark.parametrize("last", [1, 2, 3, 9, 10, 12, 17, 100, 101, 999, 12345])
def test_epoch_ticks_are_whole_few_and_apart(last):
    ticks = epoch_ticks(1, last)
    assert ticks[0] == 1
    assert ticks[-1] == last
    assert all(isinstance(tick, int) for tick in ticks)
    assert len(ticks) <= 10
    gaps = np.diff(ticks)
    assert not len(gaps) or gaps.min() > 0.25 * gaps.max()


def test_line_names_never_overlap(tmp_path, figures):
    rows = [Row(1, 1.0, 0.9999, 1.0001, 1.0), Row(2, 0.5, 1.0, 0.5, 1.0)]
    draw_curves(rows, tmp_path / "c.png", best_epoch=2)
    for axes in figures[0].axes:
        first, second = (text.get_window_extent() for text in axes.texts)
        assert not first.overlaps(second)
        assert axes.get_ylim()[0] >= 0
    assert figures[0].axes[1].get_ylim()[1] == 1


def test_curves_without_validation_or_with_a_broken_epoch(tmp_path, figures):
    rows = [Row(1, 1.0, 0.5, None, None), Row(2, math.nan, 0.6, None, None)]
    draw_curves(rows, tmp_path / "c.png")
    loss_axes = figures[0].axes[0]
    assert texts(loss_axes) == ["training\n1.000"]
    assert loss_axes.get_title(loc="right") == ""
    assert load(tmp_path / "c.png").min() < 50


# Confusion matrix


def test_confusion_rows_are_true_and_columns_predicted(tmp_path, figures):
    counts = [[8, 2, 0], [0, 5, 0], [0, 0, 0]]
    draw_confusion(counts, ["蚂蚁", "bee $", "\U0003ffff"], tmp_path / "m.png")
    axes = figures[0].axes[0]
    assert axes.get_ylabel() == "true class"
    assert axes.get_xlabel() == "predicted class"
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["蚂蚁", "bee $", "#2"]
    written = {
        (text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts
    }
    assert written == {(r, c): str(counts[r][c]) for r in range(3) for c in range(3)}
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]])
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first true class is on top"


@pytest.mark.parametrize("num_classes", [2, 20, 21, 60, 200])
def test_confusion_is_readable_at_any_size(tmp_path, figures, num_classes):
    counts = np.eye(num_classes, dtype=int) * 12345
    names = [f"a class with a long name, number {i}" for i in range(num_classes)]
    draw_confusion(counts, names, tmp_path / "m.png")
    axes = figures[0].axes[0]
    assert bool(axes.texts) == (num_classes <= 20)
    height, width, _ = load(tmp_path / "m.png").shape
    assert max(height, width) < 3500
    figures[0].canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(a.y0 >= b.y0 + 0.8 * b.height for a, b in itertools.pairwise(boxes))
    assert all(label.get_fontsize() >= 6 for label in axes.get_yticklabels())
    assert ("1 name in" in axes.get_ylabel()) == (len(boxes) < num_classes)
    for cell in axes.texts[:1]:
        assert cell.get_window_extent().width < axes.bbox.width / num_classes


# Contact sheet


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_contact_sheet_takes_any_shape_and_twenty_make_five_columns(tmp_path, figures):
    shapes = [(8, 8), (28, 28, 1), (1, 1, 3), (900, 30, 3), (30, 2000), (1500, 2000, 3)]
    pictures = [np.full(shapes[i % 6], 10 * i, np.uint8) for i in range(20)]
    captions = [f"蚂蚁 $ {i}\nline two\nline three" for i in range(20)]
    draw_contact_sheet(pictures, captions, tmp_path / "s.png", title="二十")
    axes = figures[0].axes
    assert len(axes) == 20
    assert len({round(a.get_position(original=True).x0, 4) for a in axes}) == 5
    assert texts(axes[3]) == ["蚂蚁 $ 3", "line two"]
    assert load(tmp_path / "s.png").std() > 0


def test_small_pictures_stay_sharp_and_true(tmp_path):
    """An 8x8 picture of two greys shows these two and no blend of them."""
    picture = np.where(np.indices((8, 8)).sum(axis=0) % 2, 200, 40).astype(np.uint8)
    draw_contact_sheet([picture], [""], tmp_path / "s.png")
    image = load(tmp_path / "s.png")
    inside = image[60:240, 60:240, 0]
    assert set(np.unique(inside)) == {40, 200}


def test_grey_is_shown_on_the_whole_scale_not_stretched(tmp_path):
    draw_contact_sheet([np.full((4, 4, 1), 100, np.uint8)], [""], tmp_path / "s.png")
    assert load(tmp_path / "s.png")[150, 150].tolist() == [100, 100, 100]


def test_a_photo_keeps_its_proportions_and_colours(tmp_path, figures):
    picture = np.zeros((300, 900, 3), np.uint8)
    picture[:, 450:] = (255, 0, 0)
    draw_contact_sheet([picture], ["a"], tmp_path / "s.png")
    axes = figures[0].axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (90, 270, 3)
    assert shown[45, 10].tolist() == [0, 0, 0]
    assert shown[45, 260].tolist() == [255, 0, 0]


def test_marks_are_signs_as_well_as_colours(tmp_path, figures):
    pictures = [photo(20, 20)] * 3
    draw_contact_sheet(pictures, ["a", "b", "c"], tmp_path / "s.png", marks=[True, False, None])
    assert [texts(axes) for axes in figures[0].axes] == [["✓ a"], ["✗ b"], ["c"]]
    frames = [axes.spines["top"].get_edgecolor() for axes in figures[0].axes]
    assert len(set(frames)) == 3


def test_wide_captions_stay_under_their_picture(tmp_path, figures):
    draw_contact_sheet([photo(9, 9)] * 3, ["M" * 99, "蚂" * 99, "i"], tmp_path / "s.png")
    for axes in figures[0].axes:
        assert axes.texts[0].get_window_extent().width <= 1.8 * 150 + 1


def test_no_pictures_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FieldmarkError, match=r"no pictures to show(.|\n)*do:"):
        draw_contact_sheet([], [], tmp_path / "s.png")


# All of them


DRAWINGS = {
    "curves": lambda path: draw_curves(history(3), path, best_epoch=2, title="蚂蚁"),
    "confusion": lambda path: draw_confusion([[3, 1], [0, 4]], ["蚂蚁", "蜜蜂"], path),
    "sheet": lambda path: draw_contact_sheet([photo(30, 40)], ["蚂蚁"], path),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())
def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path, draw):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        draw(tmp_path / "file" / "picture.png")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())
def test_equal_results_give_equal_files_and_leave_nothing_behind(tmp_path, draw):
    draw(tmp_path / "一.png")
    draw(tmp_path / "二.png")
    assert (tmp_path / "一.png").read_bytes() == (tmp_path / "二.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"一.png", "二.png"}


def test_drawing_in_threads_gives_the_same_files(tmp_path):
    for name, draw in DRAWINGS.items():
        draw(tmp_path / f"{name}.png")
    threads = [
        threading.Thread(target=draw, args=(tmp_path / f"{name}{i}.png",))
        for i in range(2)
        for name, draw in DRAWINGS.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in DRAWINGS:
        alone = (tmp_path / f"{name}.png").read_bytes()
        assert all((tmp_path / f"{name}{i}.png").read_bytes() == alone for i in range(2))


def test_pyplot_is_not_touched():
    """The user's backend is chosen when pyplot is imported; drawing must not do that."""
    code = (
        "import sys, pathlib, tempfile\n"
        "from fieldmark.figures.confusion import draw_confusion\n"
        "draw_confusion([[1, 0], [0, 1]], ['a', 'b'], pathlib.Path(tempfile.mkdtemp()) / 'x.png')\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
