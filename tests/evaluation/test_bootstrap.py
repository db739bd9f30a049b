"""Bootstrap intervals: figures against scikit-learn, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fieldmark.evaluation import bootstrap


def confusion_of(y_true_n: np.ndarray, y_pred_n: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(y_true_n * k + y_pred_n, minlength=k * k).reshape(k, k)


@given(st.integers(2, 6), st.integers(1, 100), st.integers(0, 10**6))
def test_the_figures_are_scikit_learns(k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_true_n, y_pred_n = rng.integers(0, k, n), rng.integers(0, k, n)
    confusion = confusion_of(y_true_n, y_pred_n, k)[None]
    for ours, average in ((bootstrap.macro_f1, "macro"), (bootstrap.weighted_f1, "weighted")):
        theirs = f1_score(y_true_n, y_pred_n, average=average, zero_division=0)
        assert ours(confusion)[0] == pytest.approx(theirs)


def test_a_draw_of_the_matrix_is_a_draw_of_pictures() -> None:
    """The same interval, to chance, by drawing pictures one by one."""
    rng = np.random.default_rng(0)
    y_true_n = rng.integers(0, 3, 150)
    y_pred_n = np.where(rng.random(150) < 0.8, y_true_n, rng.integers(0, 3, 150))
    confusion = confusion_of(y_true_n, y_pred_n, 3)
    ours = bootstrap.of_confusion(confusion, bootstrap.macro_f1, num_draws=4000)
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(0, 150, 150)
        drawn.append(
            bootstrap.macro_f1(confusion_of(y_true_n[chosen], y_pred_n[chosen], 3)[None])[0]
        )
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert (ours.low, ours.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert ours.low < ours.value < ours.high
    assert ours.n == 150


def test_a_mean_under_weights_has_the_interval_of_its_standard_error() -> None:
    values_n = np.random.default_rng(1).exponential(size=400)
    found = bootstrap.of_pictures(
        400, lambda weights_bn: weights_bn @ values_n / weights_bn.sum(axis=1), num_draws=4000
    )
    half = 1.96 * values_n.std() / 20
    assert found.value == pytest.approx(values_n.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)


def test_the_same_seed_gives_the_same_interval() -> None:
    confusion = np.array([[30, 4], [6, 20]])
    one, two, other = (
        bootstrap.of_confusion(confusion, bootstrap.macro_f1, seed=seed) for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other
