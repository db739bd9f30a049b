"""Two models on the same pictures: how far apart they are, and what luck alone would do.

Pictures that both have right, or both wrong, say nothing of which is better. The others do: those
that one alone has right. They are called discordant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.errors import FieldmarkError
from fieldmark.evaluation.metrics import Z_95

SIGNIFICANT: Final = 0.05
# With fewer, even when all fall on one side, 2 * (1/2)^n is above 0.05.
FEWEST_DISCORDANT: Final = 6
_HALVINGS: Final = 60  # of an interval at most 2 wide: the last digit of a float64


@dataclass(frozen=True, slots=True)
class Paired:
    """Model a beside model b.

    Attributes:
        difference: accuracy of a less that of b, -1 to 1, positive where a is better.
        low, high: its 95 % interval.
        num_a_only, num_b_only: pictures that a alone, b alone, has right.
        p_value: how often two equally good models would differ at least so much, by the exact
            test. The interval is no inversion of that test, which is the more careful of the two:
            it may leave out 0 where p is a little above 0.05. What decides is p.
        n: pictures that both have answered.
    """

    difference: float
    low: float
    high: float
    num_a_only: int
    num_b_only: int
    p_value: float
    n: int

    @property
    def num_discordant(self) -> int:
        """Pictures that one of the two alone has right."""
        return self.num_a_only + self.num_b_only

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, always finite."""
        return {**asdict(self), "num_discordant": self.num_discordant}


def mcnemar(correct_a_n: NDArray[Any], correct_b_n: NDArray[Any]) -> Paired:
    """The exact McNemar test of two models' answers to the same pictures, in the same order.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947) 153-157. Recommended for two models that were trained
    once by T. G. Dietterich, "Approximate statistical tests for comparing supervised
    classification learning algorithms", Neural Computation 10 (1998) 1895-1923, sec. 3.1; here
    with the binomial distribution itself instead of its approximation. It speaks of these two
    models, not of what other seeds would give.

    Args:
        correct_a_n, correct_b_n: (n,) bool, whether each answer was right.

    Raises:
        FieldmarkError: no pictures.
    """
    a, b = np.asarray(correct_a_n, dtype=bool), np.asarray(correct_b_n, dtype=bool)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.ndim == 1, a.shape
    n = len(a)
    if n == 0:
        raise FieldmarkError(
            "there are no pictures to compare two models on",
            valid="at least one picture that both have answered",
            fix="give this part of the data some pictures",
        )
    a_only, b_only = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = tango(a_only, b_only, n)
    return Paired(
        difference=(a_only - b_only) / n,
        low=low,
        high=high,
        num_a_only=a_only,
        num_b_only=b_only,
        p_value=sign_test(a_only, b_only),
        n=n,
    )


def sign_test(num_a: int, num_b: int) -> float:
    """The two-sided p of so many heads and tails from a fair coin; 1 where there are none."""
    n, fewer = num_a + num_b, min(num_a, num_b)
    if num_a == num_b:
        return 1.0
    # log C(n, i) - n log 2: the numbers themselves overflow from n = 1030 on.
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def tango(num_a: int, num_b: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of (num_a - num_b) / n, the difference of two paired shares.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908. It holds all differences d
    whose score statistic is within the normal's 95 %, that is

        |num_a - num_b - n d| <= z sqrt(n (2 q + d (1 - d)))

    where q is the likeliest share of b alone if the difference were d. Like Wilson's interval of
    one share it stays within [-1, 1] and keeps its promise for few pictures, also where the models
    differ on none (M. W. Fagerland, S. Lydersen, P. Laake, Statistics in Medicine 33 (2014) 2850).
    """
    assert min(num_a, num_b) >= 0, (num_a, num_b)
    assert num_a + num_b <= n, (num_a, num_b, n)
    # The upper end of a - b is the lower end of b - a, mirrored.
    return -_upper_end(num_b, num_a, n), _upper_end(num_a, num_b, n)


def _upper_end(num_a: int, num_b: int, n: int) -> float:
    """The largest difference that the score statistic admits; it falls as the difference grows."""
    inside, outside = (num_a - num_b) / n, 1.0
    if _score(outside, num_a, num_b, n) >= -Z_95:
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if _score(middle, num_a, num_b, n) >= -Z_95:
            inside = middle
        else:
            outside = middle
    return inside


def _score(d: float, num_a: int, num_b: int, n: int) -> float:
    """How many standard errors the difference seen is above `d`, were `d` the true one."""
    above = num_a - num_b - n * d
    linear = (2 * n - num_a + num_b) * d - num_a - num_b
    root = math.sqrt(max(0.0, linear**2 + 8 * n * num_b * d * (1 - d)))
    share_b_only = (root - linear) / (4 * n)
    variance = n * (2 * share_b_only + d * (1 - d))
    if variance <= 0:  # d = -1, 0 or 1, and nothing, or everything, is discordant
        return math.copysign(math.inf, above) if abs(above) > 0 else 0.0
    return above / math.sqrt(variance)


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` as they count when all of them are looked at for the smallest; same order.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979) 65-70: where an adjusted p is below 0.05, the chance that any of those below
    is luck stays under 5 %.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
