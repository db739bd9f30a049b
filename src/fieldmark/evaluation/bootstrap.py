"""Intervals by the bootstrap, for figures that are no shares: F1, areas, losses.

Pictures are drawn again with replacement, as often as there are, and the figure is taken of each
draw (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13: the percentile
interval). Drawing pictures again is drawing how often each one counts, so a figure is asked for
under weights, and a confusion matrix is drawn as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.types import Estimate

NUM_DRAWS: Final = 2000
_NUMBERS_AT_ONCE: Final = 10**7


def of_confusion(
    confusion_kk: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Estimate:
    """A figure that the confusion matrix decides, with its 95 % interval.

    Args:
        confusion_kk: pictures; rows the truth, columns the answer.
        statistic: (b, k, k) to (b,).
    """
    confusion = np.asarray(confusion_kk)
    n, k = int(confusion.sum()), len(confusion)
    rng = np.random.default_rng(seed)
    cells = np.flatnonzero(confusion)
    shares = confusion.reshape(-1)[cells] / n
    found = []
    at_once = max(1, _NUMBERS_AT_ONCE // (k * k))
    for start in range(0, num_draws, at_once):
        num = min(at_once, num_draws - start)
        drawn = np.zeros((num, k * k), dtype=np.int64)
        drawn[:, cells] = rng.multinomial(n, shares, size=num)
        found.append(statistic(drawn.reshape(num, k, k)))
    return _estimate(float(statistic(confusion[None])[0]), np.concatenate(found), n)


def of_pictures(
    n: int,
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Estimate:
    """A figure of n pictures under weights, with its 95 % interval.

    Args:
        statistic: weights (b, n), how often each picture counts, to (b,).
    """
    rng = np.random.default_rng(seed)
    found = []
    at_once = max(1, _NUMBERS_AT_ONCE // n)
    for start in range(0, num_draws, at_once):
        num = min(at_once, num_draws - start)
        found.append(statistic(rng.multinomial(n, np.full(n, 1 / n), size=num).astype(float)))
    return _estimate(float(statistic(np.ones((1, n)))[0]), np.concatenate(found), n)


def _estimate(value: float, drawn_b: NDArray[Any], n: int) -> Estimate:
    low, high = np.nanquantile(drawn_b, (0.025, 0.975))
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def macro_f1(confusion_bkk: NDArray[Any]) -> NDArray[Any]:
    """(b,) the mean F1 of the classes that occur, as `metrics.Metrics.macro_f1`."""
    f1_bk, occurs_bk, _ = _f1(confusion_bkk)
    mean_b: NDArray[Any] = f1_bk.sum(axis=1) / np.maximum(1, occurs_bk.sum(axis=1))
    return mean_b


def weighted_f1(confusion_bkk: NDArray[Any]) -> NDArray[Any]:
    """(b,) the mean F1 weighted by the pictures of each class."""
    f1_bk, _, true_bk = _f1(confusion_bkk)
    mean_b: NDArray[Any] = (f1_bk * true_bk).sum(axis=1) / true_bk.sum(axis=1)
    return mean_b


def _f1(
    confusion_bkk: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    true_bk, said_bk = confusion_bkk.sum(axis=2), confusion_bkk.sum(axis=1)
    hits_bk = np.diagonal(confusion_bkk, axis1=1, axis2=2)
    both_bk = true_bk + said_bk
    f1_bk = np.divide(2 * hits_bk, both_bk, out=np.zeros(both_bk.shape), where=both_bk > 0)
    return f1_bk, both_bk > 0, true_bk
