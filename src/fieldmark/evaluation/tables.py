"""Results as tables: CSV text for files, one table for the terminal."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fieldmark.evaluation.metrics import ClassMetrics, Metrics

MOST_CLASSES_IN_TERMINAL: Final = 30
WORST_CLASSES_SHOWN: Final = 10


def confusion_csv(confusion_kk: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """Counts; a row for each true class, a column for each answer, names on both sides."""
    header = ["true \\ predicted", *class_names]
    rows = ([name, *row] for name, row in zip(class_names, confusion_kk, strict=True))
    return csv_text([header, *rows])


def predictions_csv(
    paths: Sequence[str],
    labels: Sequence[str],
    probabilities_nk: NDArray[Any],
    class_names: Sequence[str],
) -> str:
    """`path,label,predicted,probability,correct`, then `p:NAME` for every class.

    Args:
        paths: n pictures.
        labels: n true class names; where one is empty (unknown), so is `correct`.
        probabilities_nk: (n, k), rows summing to 1.
    """
    rows: list[list[object]] = [
        ["path", "label", "predicted", "probability", "correct", *(f"p:{c}" for c in class_names)]
    ]
    for path, label, probabilities in zip(paths, labels, probabilities_nk, strict=True):
        best = int(np.argmax(probabilities))
        predicted = class_names[best]
        correct = str(predicted == label).lower() if label else ""
        shares = [f"{p:.6g}" for p in probabilities]
        rows.append([path, label, predicted, shares[best], correct, *shares])
    return csv_text(rows)


def per_class_table(metrics: Metrics) -> Table:
    """Precision, recall and F1 of each class, for a rich console.

    More than 30 classes would scroll the summary away: then the ten with the lowest F1 are shown,
    and the title says so.
    """
    classes: Sequence[ClassMetrics] = metrics.per_class
    title = None
    if len(classes) > MOST_CLASSES_IN_TERMINAL:
        judged = [c for c in classes if c.num_true]
        classes = sorted(judged, key=lambda c: c.f1)[:WORST_CLASSES_SHOWN]
        title = (
            f"the {len(classes)} classes with the lowest F1, of {len(metrics.per_class)} "
            "(metrics.json has all)"
        )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", no_wrap=True, overflow="ellipsis")
    for heading in ("precision", "recall (95 % interval)", "F1", "pictures", "predicted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for c in classes:
        recall = "-"
        if c.num_true:
            recall = f"{c.recall.value:.3f} ({c.recall.low:.3f}-{c.recall.high:.3f})"
        table.add_row(
            # Text, not str: a class called "[red]" is a name, not markup.
            Text(printable(c.name)),
            f"{c.precision:.3f}" if c.num_predicted else "-",
            recall,
            f"{c.f1:.3f}" if c.num_true or c.num_predicted else "-",
            str(c.num_true),
            str(c.num_predicted),
        )
    return table


def printable(text: str) -> str:
    """`text` on one line, without what would steer or upset a terminal (escapes, half pairs)."""
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, in text that UTF-8 can hold."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    # A Linux file name need not be UTF-8; Python then holds its odd bytes as lone surrogates,
    # which no UTF-8 file can take.
    return stream.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
