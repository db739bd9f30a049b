"""Paired answers, against SciPy, a published worked example, brute force and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm

from fieldmark.errors import FieldmarkError
from fieldmark.evaluation.paired import FEWEST_DISCORDANT, holm, mcnemar, sign_test, tango

counts = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)).filter(sum)
answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def pictures(a_only: int, b_only: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.ones(n, bool), np.ones(n, bool)
    b[:a_only] = False
    a[a_only : a_only + b_only] = False
    return a, b


def test_a_published_example() -> None:
    """Cavo et al. 2012 in Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency
    Tables" (2017), ch. 8; figures as their package `contingencytables` prints them."""
    paired = mcnemar(*pictures(6, 16, 161))
    assert paired.difference == pytest.approx(-0.0621, abs=5e-5)
    assert (paired.low, paired.high) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert paired.p_value == pytest.approx(0.052479, abs=5e-7)
    assert (paired.num_a_only, paired.num_b_only, paired.num_discordant) == (6, 16, 22)


@given(st.integers(0, 4000), st.integers(0, 4000))
def test_the_exact_test_equals_scipy(a_only: int, b_only: int) -> None:
    if a_only + b_only == 0:
        assert sign_test(0, 0) == 1
        return
    reference = binomtest(a_only, a_only + b_only, 0.5).pvalue
    # SciPy's own is 0 where it comes near the smallest number there is (10 and 1,065: 2.7e-300).
    assert sign_test(a_only, b_only) == pytest.approx(reference, rel=1e-8, abs=1e-290)


def score(d: float, a_only: int, b_only: int, n: int) -> float:
    """Tango's statistic, its nuisance share found by maximizing the likelihood of the counts."""

    def minus_likelihood(share: float) -> float:
        shares = (share + d, share, 1 - 2 * share - d)
        seen = (a_only, b_only, n - a_only - b_only)
        return -sum(k * math.log(max(p, 1e-300)) for k, p in zip(seen, shares, strict=True) if k)

    bounds = (max(0.0, -d), (1 - d) / 2)
    share = minimize_scalar(
        minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    return (a_only - b_only - n * d) / math.sqrt(n * (2 * share + d * (1 - d)))


@given(counts)
def test_the_interval_ends_where_the_score_test_does(case: tuple[int, int, int]) -> None:
    a_only, b_only, _both = case
    n = sum(case)
    low, high = tango(a_only, b_only, n)
    z = norm.ppf(0.975)
    if low > -1:
        assert score(low, a_only, b_only, n) == pytest.approx(z, abs=1e-3)
    if high < 1:
        assert score(high, a_only, b_only, n) == pytest.approx(-z, abs=1e-3)


@given(answers)
def test_it_is_symmetric_and_within_bounds(case: list[tuple[bool, bool]]) -> None:
    a, b = np.array(case).T
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.p_value == other.p_value
    assert 0 < one.p_value <= 1
    assert one.difference == -other.difference
    assert (one.low, one.high) == (-other.high, -other.low)
    assert (one.num_a_only, one.num_b_only) == (other.num_b_only, other.num_a_only)
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.difference == pytest.approx(a.mean() - b.mean())


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_model_does_not_differ_from_itself(right: list[bool]) -> None:
    same = mcnemar(np.array(right), np.array(right))
    assert (same.p_value, same.difference, same.num_discordant) == (1, 0, 0)
    z2 = norm.ppf(0.975) ** 2
    assert same.high == pytest.approx(z2 / (len(right) + z2)), "more pictures, less room"
    assert same.low == -same.high


def test_the_fewest_discordant_pictures_that_can_show_anything() -> None:
    assert sign_test(FEWEST_DISCORDANT, 0) < 0.05 < sign_test(FEWEST_DISCORDANT - 1, 0)


@pytest.mark.parametrize(("shares", "n"), [((0.03, 0.03), 40), ((0.1, 0.04), 153), ((0, 0.3), 25)])
def test_the_interval_keeps_its_promise(shares: tuple[float, float], n: int) -> None:
    drawn = np.random.default_rng(0).multinomial(n, [*shares, 1 - sum(shares)], size=3000)
    cases, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    true = shares[0] - shares[1]
    held = [low <= true <= high for low, high in (tango(int(a), int(b), n) for a, b in cases)]
    assert 0.93 < (np.array(held) * times).sum() / 3000 < 0.99


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= 1
        assert q <= max(min(1, len(p_values) * p), max(p_values))
    assert sorted(range(len(adjusted)), key=lambda i: (adjusted[i], p_values[i])) == sorted(
        range(len(adjusted)), key=lambda i: (p_values[i], p_values[i])
    )


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_no_pictures_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(FieldmarkError, match=r"no pictures to compare(.|\n)*do:"):
        mcnemar(np.zeros(0, bool), np.zeros(0, bool))
