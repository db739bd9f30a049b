"""Thresholds and sets: promises that hold by construction, and on drawn pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.evaluation.abstention import (
    answer_from,
    choose_least,
    choose_threshold,
    sets_from,
)
from fieldmark.evaluation.metrics import softmax


def answers(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits_nk = rng.normal(0, 2, (n, k))
    p_nk = softmax(logits_nk)
    return p_nk, (p_nk.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


@given(st.integers(1, 80), st.integers(2, 5), st.integers(0, 10**6), st.floats(0.3, 1.0))
def test_no_lower_threshold_keeps_the_precision(n: int, k: int, seed: int, target: float) -> None:
    p_nk, y_true_n = answers(n, k, seed)
    p_nk = np.round(p_nk, 1)  # many pictures of the same confidence
    threshold = choose_threshold(p_nk, y_true_n, target)
    precise = {}
    for each in np.unique(p_nk.max(axis=1)):
        precision = answer_from(p_nk, y_true_n, each).precision
        assert precision is not None
        precise[each] = precision.value >= target
    good = [each for each, is_good in precise.items() if is_good]
    assert threshold == (min(good) if good else math.inf)


def test_what_is_answered_and_how_well() -> None:
    p_nk = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = answer_from(p_nk, np.array([0, 1, 1, 0]), 0.7)
    assert (found.answered.value, found.answered.n) == (0.75, 4)
    assert found.precision is not None
    assert (found.precision.value, found.precision.n) == (pytest.approx(2 / 3), 3)
    none = answer_from(p_nk, np.array([0, 1, 1, 0]), math.inf)
    assert none.precision is None
    assert none.answered.value == 0


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 10**6), st.floats(0.5, 0.99))
def test_so_many_of_the_pictures_that_chose_are_covered(
    n: int, k: int, seed: int, coverage: float
) -> None:
    p_nk, y_true_n = answers(n, k, seed)
    least = choose_least(p_nk, y_true_n, coverage)
    sets = sets_from(p_nk, y_true_n, least)
    wanted = math.ceil((n + 1) * coverage - 1e-9)
    assert round(sets.coverage.value * n) == (n if wanted > n else wanted)
    if wanted > n:
        assert sets.mean_size == k, "nothing less than all classes can be promised"


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_promise_holds_for_new_pictures(coverage: float) -> None:
    """On average over draws of both parts: between coverage and coverage + 1 / (n + 1)."""
    n, found = 60, []
    for seed in range(400):
        p_nk, y_true_n = answers(2 * n, 4, seed)
        least = choose_least(p_nk[:n], y_true_n[:n], coverage)
        found.append(sets_from(p_nk[n:], y_true_n[n:], least).coverage.value)
    error = 4 * np.std(found) / math.sqrt(len(found))
    assert coverage - error <= np.mean(found) <= coverage + 1 / (n + 1) + error
