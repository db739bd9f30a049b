"""Probabilities that mean what they say: a temperature for them, and how far off they are.

Shape names: n pictures, k classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.evaluation.metrics import cross_entropy, softmax

LOWEST, HIGHEST = 0.05, 20.0  # temperatures
# How sure we are, before any picture, that a network needs none: ln T is 0 give or take this. A
# validation part of two dozen pictures that are all right says "as sharp as possible", which the
# next wrong one would cost dearly; with some hundreds of pictures the prior no longer shows.
PRIOR_SPREAD: Final = 0.5
NUM_BINS: Final = 15  # as in Guo et al. 2017; fewer where a bin would have too few pictures
FEWEST_IN_BIN: Final = 10
_HALVINGS: Final = 50  # of an interval 6 wide


@dataclass(frozen=True, slots=True)
class Bin:
    """Pictures answered with about the same confidence.

    Attributes:
        confidence: their mean.
        accuracy: the share of them that are right.
        n: how many.
    """

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities are from shares.

    Attributes:
        ece: expected calibration error: the mean distance of a bin's accuracy to its confidence,
            bins weighted by their pictures (Naeini et al. 2015; Guo et al. 2017, eq. 3).
        brier: mean squared distance of the probabilities to the one-hot truth, 0 to 2 (Brier 1950).
        log_loss: mean cross-entropy, nats.
        bins: equally many pictures in each, low confidence to high.
    """

    ece: float
    brier: float
    log_loss: float
    bins: tuple[Bin, ...]


def fit_temperature(logits_nk: NDArray[Any], y_true_n: NDArray[Any]) -> float:
    """The number to divide logits by so that their softmax is calibrated.

    Minimises  sum_i -log softmax(logits_i / T)[y_i]  +  (ln T)^2 / (2 * PRIOR_SPREAD^2)  over T:
    the maximum a posteriori of Guo et al.'s temperature ("On Calibration of Modern Neural
    Networks", 2017, sec. 4.2) under a log-normal prior round 1. The answers stay the same.
    """
    logits = np.asarray(logits_nk, dtype=np.float64)
    y_true = np.asarray(y_true_n)[:, None]

    def slope(log_t: float) -> float:
        """Of that sum over ln T."""
        shown_nk = logits / math.exp(log_t)
        of_true_n = np.take_along_axis(shown_nk, y_true, axis=1)[:, 0]
        mean_n = (softmax(shown_nk) * shown_nk).sum(axis=1)
        return float((of_true_n - mean_n).sum()) + log_t / PRIOR_SPREAD**2

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp((low + high) / 2)


def reliability(
    logits_nk: NDArray[Any], y_true_n: NDArray[Any], temperature: float = 1.0
) -> Reliability:
    """What the probabilities at this temperature are worth, on pictures that did not choose it."""
    logits = np.asarray(logits_nk, dtype=np.float64) / temperature
    y_true = np.asarray(y_true_n)
    p_nk = softmax(logits)
    one_hot = np.eye(p_nk.shape[1])[y_true]
    confidence_n, right_n = p_nk.max(axis=1), p_nk.argmax(axis=1) == y_true
    bins = tuple(_bins(confidence_n, right_n))
    n = len(y_true)
    return Reliability(
        ece=sum(each.n / n * abs(each.accuracy - each.confidence) for each in bins),
        brier=float(((p_nk - one_hot) ** 2).sum(axis=1).mean()),
        log_loss=float(cross_entropy(logits, y_true).mean()),
        bins=bins,
    )


def _bins(confidence_n: NDArray[np.float64], right_n: NDArray[np.bool_]) -> Sequence[Bin]:
    """Of equally many pictures: with bins of equal width most would be empty, as most answers of a
    good network are near 1 (Nixon et al. 2019, sec. 4)."""
    num = max(1, min(NUM_BINS, len(confidence_n) // FEWEST_IN_BIN))
    order = np.argsort(confidence_n, kind="stable")
    return [
        Bin(float(confidence_n[part].mean()), float(right_n[part].mean()), len(part))
        for part in np.array_split(order, num)
    ]
