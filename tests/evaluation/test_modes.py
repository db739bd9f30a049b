"""What a comparison of modes says, and what it must not say."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from fieldmark.evaluation.metrics import wilson
from fieldmark.evaluation.modes import (
    ModeResult,
    advise,
    best_of,
    comparison_csv,
    p_words,
    pair_with_best,
)


def result(mode: str, right: int, n: int, **words: object) -> ModeResult:
    values = {"num_val": 24, "val_accuracy": 0.9, "val_loss": 0.3, "seconds": 60.0, **words}
    return ModeResult(mode, f"runs/x/{mode}", test=wilson(right, n), **values)  # type: ignore[arg-type]


def answers(wrong: range, n: int) -> np.ndarray:
    correct = np.ones(n, bool)
    correct[list(wrong)] = False
    return correct


def compared(wrong: dict[str, range], n: int, **words: dict[str, object]) -> tuple[ModeResult, ...]:
    rows = [result(m, n - len(w), n, **words.get(m, {})) for m, w in wrong.items()]
    return pair_with_best(rows, {mode: answers(w, n) for mode, w in wrong.items()})


def test_validation_chooses_and_the_test_part_does_not() -> None:
    rows = compared(
        {"scratch": range(0), "frozen": range(50)},
        100,
        frozen={"val_accuracy": 0.95},
        scratch={"val_accuracy": 0.90},
    )
    best = best_of(rows)
    assert best is not None
    assert best.mode == "frozen"
    assert best.paired is None
    assert rows[0].paired is not None
    assert rows[0].paired.difference == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("accuracies", "losses", "chosen"),
    [((0.9, 0.8), (0.9, 0.1), 0), ((0.9, 0.9), (0.4, 0.3), 1), ((0.9, 0.9), (0.3, 0.3), 0)],
)
def test_among_equals_the_lower_loss_then_the_first(
    accuracies: tuple[float, float], losses: tuple[float, float], chosen: int
) -> None:
    rows = [
        result(mode, 9, 10, val_accuracy=accuracy, val_loss=loss)
        for mode, accuracy, loss in zip(("frozen", "finetune"), accuracies, losses, strict=True)
    ]
    assert best_of(rows) is rows[chosen]
    correct = {row.mode: answers(range(1), 10) for row in rows}
    said = advise(pair_with_best(rows, correct))[0]
    tie = accuracies[0] == accuracies[1]
    assert ("as many as" in said and "at the lowest loss" in said) == tie


def test_what_the_test_part_shows_is_said_and_no_more() -> None:
    rows = compared(
        {"scratch": range(60), "frozen": range(4), "finetune": range(1, 8)},
        153,
        frozen={"val_accuracy": 0.96, "seconds": 20.0},
    )
    said = " ".join(advise(rows))
    assert said.startswith(
        "Go on with frozen: it has 96.0% of the 24 validation pictures right, 1 "
    )
    assert "right, 1 more than scratch (fewer than 6 may well be luck). The test" in said
    assert "bears that out against scratch (p < 0.001)." in said
    assert "Against finetune (p = 0.38) the 153 test pictures show no difference" in said
    assert "does not mean that there is none" in said
    assert "finetune may be up to " in said
    assert "disagree on fewer than 6 pictures" in said
    assert "frozen is better" not in said


def test_three_looks_are_not_one() -> None:
    """p = 0.035 alone would be shown; among three it may well be luck."""
    rows = compared(
        {"frozen": range(3, 3), "finetune": range(6), "partial": range(1), "scratch": range(2)},
        100,
        frozen={"val_accuracy": 0.96},
    )
    assert rows[1].paired is not None
    assert rows[1].paired.p_value == pytest.approx(0.03125)
    said = " ".join(advise(rows))
    assert "bears that out" not in said
    assert "Against finetune (p = 0.031), partial (p = 1) and scratch (p = 0.50) the 100" in said


def test_a_validation_part_that_chose_by_luck_is_called_that() -> None:
    rows = compared({"frozen": range(1), "scratch": range(40)}, 100, scratch={"val_accuracy": 0.95})
    said = " ".join(advise(rows))
    assert "But on the test part frozen (p < 0.001) did better than scratch" in said
    assert "the 24 validation pictures may have chosen by luck" in said


def test_a_quicker_mode_is_named_where_nothing_shows_it_worse() -> None:
    wrong = {"frozen": range(5), "finetune": range(3, 7), "scratch": range(50)}
    words = {"finetune": {"val_accuracy": 0.96, "seconds": 300.0}, "scratch": {"seconds": 1.0}}
    said = advise(compared(wrong, 100, **words))
    quicker = "frozen took 1 min 00 s where finetune took 5 min 00 s: enough for trying things out."
    assert said[-1] == quicker


def test_a_mode_that_improved_on_nothing_says_what_it_kept() -> None:
    wrong = {"frozen": range(5), "partial": range(3, 7), "finetune": range(3, 7)}
    words = {
        "frozen": {"kept_epoch": 3},
        "partial": {"kept_epoch": 0, "val_accuracy": 0.95},
        "finetune": {"kept_epoch": 0, "val_accuracy": 0.96},
    }
    said = advise(compared(wrong, 100, **words))
    assert said[1].startswith("finetune and partial kept the head that came first (epoch 0)")
    moved = {mode: {**each, "kept_epoch": 2} for mode, each in words.items()}
    assert not any("epoch 0" in line for line in advise(compared(wrong, 100, **moved)))


def test_one_mode_alone_and_none() -> None:
    alone = compared({"scratch": range(3)}, 20)
    assert advise(alone) == ("Only scratch was trained: there is nothing to compare it with.",)
    failed = (ModeResult("scratch", "x", failed="memory is full"),)
    assert best_of(failed) is None
    assert pair_with_best(failed, {}) == failed
    assert advise(failed) == ("No mode could be trained.",)


def test_table_and_json_hold_the_same_and_a_failed_mode_its_reason() -> None:
    rows = compared({"frozen": range(2), "finetune": range(1, 9)}, 50, frozen={"val_loss": 0.1})
    rows = (*rows, ModeResult("scratch", "runs/x/scratch", failed='no "memory", left'))
    frozen, finetune, scratch = csv.DictReader(io.StringIO(comparison_csv(rows)))
    assert frozen["best"] == "true"
    assert frozen["p_value"] == ""
    assert finetune["best"] == "false"
    assert (finetune["only_this"], finetune["only_best"]) == ("1", "7")
    document = json.loads(json.dumps([row.to_dict() for row in rows], allow_nan=False))
    paired = document[1]["paired"]
    assert float(finetune["p_value"]) == paired["p_value"]
    assert float(finetune["difference"]) == paired["difference"] == pytest.approx(-6 / 50)
    assert float(finetune["difference_low"]) == paired["low"]
    assert float(frozen["test_accuracy"]) == document[0]["test"]["value"] == 0.96
    assert scratch["failed"] == document[2]["failed"] == 'no "memory", left'
    assert scratch["test_accuracy"] == ""


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "p = 1"),
        (0.999, "p = 1"),
        (0.5, "p = 0.50"),
        (0.0123, "p = 0.012"),
        (0.0, "p < 0.001"),
    ],
)
def test_p_is_never_nothing(p: float, words: str) -> None:
    assert p_words(p) == words
