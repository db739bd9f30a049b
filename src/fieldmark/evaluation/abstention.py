"""When a model should not answer: a threshold for its confidence, and sets of classes in place of
one.

Both are chosen on validation and measured on test. Shape names: n pictures, k classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.evaluation.metrics import wilson
from fieldmark.types import Estimate


@dataclass(frozen=True, slots=True)
class Selective:
    """Answering only where the confidence reaches a threshold.

    Attributes:
        threshold: the least confidence that is answered.
        answered: share of the pictures that are.
        precision: share of the answered that are right; None where none is answered.
    """

    threshold: float
    answered: Estimate
    precision: Estimate | None


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of classes that hold the true one with a given probability.

    Attributes:
        least: a class is in the set from this probability on.
        coverage: share of the pictures whose set holds the true class.
        mean_size: classes in a set.
        single: share of the pictures whose set is one class.
    """

    least: float
    coverage: Estimate
    mean_size: float
    single: Estimate


def choose_threshold(p_nk: NDArray[Any], y_true_n: NDArray[Any], target_precision: float) -> float:
    """The lowest confidence from which on at least so large a share of the answers is right.

    Returns:
        A confidence that occurs; infinity where no threshold reaches the target.
    """
    confidence_n = np.asarray(p_nk).max(axis=1)
    right_n = np.asarray(p_nk).argmax(axis=1) == np.asarray(y_true_n)
    order = np.argsort(-confidence_n, kind="stable")
    sorted_n = confidence_n[order]
    precision_n = np.cumsum(right_n[order]) / np.arange(1, len(order) + 1)
    # Pictures of the same confidence are answered together or not at all.
    is_last = np.append(sorted_n[1:] < sorted_n[:-1], True)
    good = np.flatnonzero(is_last & (precision_n >= target_precision))
    return float(sorted_n[good[-1]]) if len(good) else math.inf


def answer_from(p_nk: NDArray[Any], y_true_n: NDArray[Any], threshold: float) -> Selective:
    """What a threshold does to other pictures."""
    answered_n = np.asarray(p_nk).max(axis=1) >= threshold
    right_n = np.asarray(p_nk).argmax(axis=1) == np.asarray(y_true_n)
    num = int(answered_n.sum())
    precision = wilson(int(right_n[answered_n].sum()), num) if num else None
    return Selective(threshold, wilson(num, len(answered_n)), precision)


def choose_least(p_nk: NDArray[Any], y_true_n: NDArray[Any], coverage: float) -> float:
    """The probability from which on a class belongs to a picture's set.

    Split conformal prediction with the score 1 - p of the true class (Vovk et al. 2005; Sadinle,
    Lei & Wasserman 2019): of pictures like these, at least `coverage` have their true class in the
    set, whatever the model. With fewer than coverage / (1 - coverage) pictures that needs every
    class, and 0 is returned.
    """
    p_true_n = np.sort(np.asarray(p_nk)[np.arange(len(y_true_n)), np.asarray(y_true_n)])
    n = len(p_true_n)
    # The ceil((n + 1) coverage)-th smallest score is that largest of p, counted from above.
    rank = math.ceil((n + 1) * coverage - 1e-9)
    return 0.0 if rank > n else float(p_true_n[n - rank])


def sets_from(p_nk: NDArray[Any], y_true_n: NDArray[Any], least: float) -> Sets:
    """What such sets are like on other pictures."""
    held_nk = np.asarray(p_nk) >= least
    sizes_n = held_nk.sum(axis=1)
    covered_n = held_nk[np.arange(len(y_true_n)), np.asarray(y_true_n)]
    n = len(sizes_n)
    return Sets(
        least,
        coverage=wilson(int(covered_n.sum()), n),
        mean_size=float(sizes_n.mean()),
        single=wilson(int((sizes_n == 1).sum()), n),
    )
