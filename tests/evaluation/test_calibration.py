"""Temperatures and reliability: against torch, scikit-learn and what is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from fieldmark.evaluation.calibration import fit_temperature, reliability
from fieldmark.evaluation.metrics import softmax


def drawn(n: int, k: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is right, times `sharpness`; and labels drawn by the softmax."""
    rng = np.random.default_rng(seed)
    logits_nk = rng.normal(0, 2, (n, k))
    p_nk = softmax(logits_nk)
    y_true_n = (p_nk.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits_nk * sharpness, y_true_n


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_what_was_made_too_sharp_is_found(sharpness: float) -> None:
    logits_nk, y_true_n = drawn(20_000, 5, sharpness)
    assert fit_temperature(logits_nk, y_true_n) == pytest.approx(sharpness, rel=0.03)


def test_it_is_the_minimum_that_gradients_find() -> None:
    logits_nk, y_true_n = drawn(500, 4, 2.5, seed=3)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=200, line_search_fn="strong_wolfe")
    logits, labels = torch.tensor(logits_nk), torch.tensor(y_true_n)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_t.exp(), labels, reduction="sum")
        loss = loss + log_t**2 / (2 * 0.5**2)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = fit_temperature(logits_nk, y_true_n)
    assert found == pytest.approx(float(log_t.detach().exp()), rel=1e-4)


def test_two_dozen_right_answers_do_not_make_it_sure_of_everything() -> None:
    rng = np.random.default_rng(0)
    y_true_n = np.arange(24) % 2
    logits_nk = rng.normal(0, 0.3, (24, 2))
    logits_nk[np.arange(24), y_true_n] += 2.0
    assert (logits_nk.argmax(axis=1) == y_true_n).all()
    assert 0.4 < fit_temperature(logits_nk, y_true_n) < 1.0  # alone it would be the least there is


@given(st.integers(2, 6), st.integers(5, 200), st.integers(0, 2**32 - 1))
def test_reliability_is_what_its_words_say(k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits_nk, y_true_n = rng.normal(0, 3, (n, k)), rng.integers(0, k, n)
    found = reliability(logits_nk, y_true_n)
    p_nk = softmax(logits_nk)
    assert found.log_loss == pytest.approx(log_loss(y_true_n, p_nk, labels=range(k)))
    if k == 2:  # scikit-learn's is of one class, half of ours
        theirs = brier_score_loss(y_true_n, p_nk[:, 1])
        assert found.brier == pytest.approx(2 * theirs)
    assert sum(each.n for each in found.bins) == n
    right = (p_nk.argmax(axis=1) == y_true_n).sum()
    assert sum(each.n * each.accuracy for each in found.bins) == pytest.approx(right)
    assert 0 <= found.ece <= 1
    confidences = [each.confidence for each in found.bins]
    assert confidences == sorted(confidences)


def test_calibrated_answers_have_a_small_error_and_sharp_ones_a_large() -> None:
    logits_nk, y_true_n = drawn(20_000, 4, 3.0)
    before = reliability(logits_nk, y_true_n)
    after = reliability(logits_nk, y_true_n, 3.0)
    assert after.ece < 0.02 < 0.1 < before.ece
    assert after.brier < before.brier
    assert after.log_loss < before.log_loss
    assert not math.isnan(after.ece)
