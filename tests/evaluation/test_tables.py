"""What is written and what is printed."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from rich.console import Console

from fieldmark.evaluation.metrics import evaluate_logits
from fieldmark.evaluation.tables import confusion_csv, per_class_table, predictions_csv, printable

AWKWARD = ["蚂蚁", 'bees, "honey"', "two\nlines"]


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def printed(table, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def metrics_for(k, wrong=()):
    """Three pictures a class, all right but one in each class of `wrong`."""
    y_true = np.repeat(np.arange(k), 3)
    logits = np.eye(k)[y_true]
    for c in wrong:
        logits[3 * c] = np.eye(k)[(c + 1) % k]
    return evaluate_logits(logits, y_true, [f"class {i}" for i in range(k)])


def test_confusion_csv_has_rows_true_and_columns_predicted():
    rows = read(confusion_csv(((5, 1, 0), (0, 7, 2), (3, 0, 4)), AWKWARD))
    assert rows[0] == ["true \\ predicted", *AWKWARD]
    assert rows[1] == ["蚂蚁", "5", "1", "0"]
    assert rows[3] == ["two\nlines", "3", "0", "4"]


def test_predictions_csv_reads_back():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [1e-9, 1.0, 0.0]])
    text = predictions_csv(
        ["a b.jpg", "图/二.png", "c.jpg"], ["蚂蚁", "蚂蚁", ""], probabilities, AWKWARD
    )
    header, *rows = read(text)
    assert header[:5] == ["path", "label", "predicted", "probability", "correct"]
    assert header[5:] == [f"p:{name}" for name in AWKWARD]
    assert rows[0][:5] == ["a b.jpg", "蚂蚁", "蚂蚁", "0.7", "true"]
    assert rows[1][:5] == ["图/二.png", "蚂蚁", "two\nlines", "0.9", "false"]
    assert rows[2][4] == "", "right or wrong cannot be said without a label"
    read_back = np.array([[float(x) for x in row[5:]] for row in rows])
    np.testing.assert_allclose(read_back, probabilities, rtol=1e-5)


def test_a_path_that_is_not_utf8_can_still_be_written():
    path = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    text = predictions_csv([path], ["a"], np.array([[1.0, 0.0]]), ["a", "b"])
    assert b"caf\\udce9.jpg" in text.encode("utf-8")


def test_terminal_table_shows_all_classes_in_order():
    text = printed(per_class_table(metrics_for(30, wrong=[4])))
    assert [line.split()[1] for line in text.splitlines()[1:]] == [str(i) for i in range(30)]
    assert "0.667 (0.208-0.939)" in text


def test_terminal_table_of_many_classes_shows_the_worst_and_says_so():
    wrong = [3, 17, 40, 71]
    text = printed(per_class_table(metrics_for(100, wrong)))
    assert "10 classes with the lowest F1, of 100" in text
    rows = [line for line in text.splitlines() if line.startswith("class ") and "(" in line][1:]
    assert len(rows) == 10
    assert {int(row.split()[1]) for row in rows} >= set(wrong)


def test_terminal_table_fits_eighty_columns_with_long_and_wide_names():
    names = ["蚂蚁" * 30, "[red]bees[/red]"]
    metrics = evaluate_logits(np.eye(2), np.array([0, 1]), names)
    text = printed(per_class_table(metrics), width=80)
    assert len(text.splitlines()) == 3
    assert "[red]bees" in text


def test_a_class_nobody_has_shows_a_dash_not_a_zero():
    metrics = evaluate_logits(np.eye(3)[[0, 1]], np.array([0, 1]), ["a", "b", "absent"])
    row = next(x for x in printed(per_class_table(metrics)).splitlines() if "absent" in x)
    assert row.split() == ["absent", "-", "-", "-", "0", "0"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\udce9"])
def test_names_cannot_steer_the_terminal(name):
    shown = printable(name)
    assert "?" in shown
    shown.encode("utf-8")
    assert "\x1b" not in shown
    assert "\n" not in shown
