"""The figures, against scikit-learn, SciPy and a simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from fieldmark.errors import FieldmarkError, ModelError
from fieldmark.evaluation.metrics import cross_entropy, evaluate_logits, softmax, wilson


@st.composite
def answered(draw, most_classes=12):
    """(logits_nk, y_true_n) without ties, often with classes that nobody has or predicts."""
    k = draw(st.integers(2, most_classes))
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(scale=draw(st.sampled_from([0.1, 3.0, 200.0])), size=(n, k))
    y_true = rng.integers(0, draw(st.integers(1, k)), size=n)
    return logits.astype(draw(st.sampled_from([np.float32, np.float64]))), y_true


def names(k):
    return [f"class {i}" for i in range(k)]


@given(answered())
def test_per_class_figures_and_confusion_equal_scikit_learn(case):
    logits, y_true = case
    k = logits.shape[1]
    y_pred = logits.argmax(axis=1)
    metrics = evaluate_logits(logits, y_true, names(k))

    precision, recall, f1, support = precision_recall_fscore_support(
        y_true, y_pred, labels=range(k), zero_division=0
    )
    assert [c.name for c in metrics.per_class] == names(k)
    np.testing.assert_allclose([c.precision for c in metrics.per_class], precision)
    np.testing.assert_allclose([c.recall.value for c in metrics.per_class], recall)
    np.testing.assert_allclose([c.f1 for c in metrics.per_class], f1)
    assert [c.num_true for c in metrics.per_class] == support.tolist()
    assert [c.num_predicted for c in metrics.per_class] == np.bincount(y_pred, minlength=k).tolist()
    expected = confusion_matrix(y_true, y_pred, labels=range(k))
    assert np.array_equal(metrics.confusion_kk, expected)
    assert metrics.accuracy == wilson(int((y_true == y_pred).sum()), len(y_true))
    assert metrics.macro_f1 == pytest.approx(
        f1_score(y_true, y_pred, average="macro", zero_division=0)
    )


@given(answered())
def test_loss_and_softmax_equal_scikit_learn(case):
    logits, y_true = case
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    loss = evaluate_logits(logits, y_true, names(logits.shape[1])).loss
    # scikit-learn clips probabilities; where that bites, it is no reference.
    if probabilities[np.arange(len(y_true)), y_true].min() > 1e-12:
        reference = log_loss(y_true, probabilities, labels=range(logits.shape[1]))
        assert loss == pytest.approx(reference, rel=1e-6)
    np.testing.assert_allclose(loss, cross_entropy(logits, y_true).mean())


@given(answered())
def test_top5_equals_scikit_learn_and_is_left_out_up_to_five_classes(case):
    logits, y_true = case
    k = logits.shape[1]
    metrics = evaluate_logits(logits, y_true, names(k))
    if k <= 5:
        assert metrics.top5_accuracy is None
        assert "top5_accuracy" not in metrics.to_dict()
        return
    reference = top_k_accuracy_score(y_true, logits, k=5, labels=range(k))
    assert metrics.top5_accuracy.value == pytest.approx(reference)
    assert metrics.top5_accuracy.value >= metrics.accuracy.value


def test_equal_logits_count_as_one_answer():
    """A network that says nothing must not be credited with the true class on every tie."""
    metrics = evaluate_logits(np.zeros((8, 8)), np.arange(8), names(8))
    assert metrics.accuracy.value == 1 / 8
    assert metrics.top5_accuracy.value == 5 / 8
    assert metrics.loss == pytest.approx(math.log(8))


def test_loss_of_sure_and_wrong_answers_is_exact_and_finite():
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], dtype=np.float32)
    assert evaluate_logits(logits, np.array([1, 1]), names(2)).loss == 5000.0
    assert softmax(logits)[0].tolist() == [1.0, 0.0]


@given(answered())
def test_to_dict_survives_strict_json(case):
    logits, y_true = case
    metrics = evaluate_logits(logits, y_true, names(logits.shape[1]))
    values = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert values == metrics.to_dict()
    assert set(values["accuracy"]) == {"value", "low", "high", "n"}
    assert len(values["per_class"]) == logits.shape[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_logits_are_an_error_that_counts_them(bad):
    logits = np.zeros((3, 2))
    logits[1, 0] = bad
    with pytest.raises(ModelError, match=r"not finite(.|\n)*1 of 3 pictures(.|\n)*train again"):
        evaluate_logits(logits, np.array([0, 1, 0]), names(2))


def test_a_loss_beyond_float64_is_the_same_error():
    with pytest.raises(ModelError, match="not finite"):
        evaluate_logits(np.array([[1e308, -1e308]]), np.array([1]), names(2))


def test_no_pictures_is_an_error_that_says_what_to_do():
    with pytest.raises(FieldmarkError, match=r"no pictures to measure on(.|\n)*do:"):
        evaluate_logits(np.zeros((0, 2)), np.zeros(0, dtype=int), names(2))
    with pytest.raises(FieldmarkError, match="no pictures"):
        wilson(0, 0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case):
    successes, n = case
    estimate = wilson(successes, n)
    reference = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert estimate.low == pytest.approx(reference.low, abs=1e-12)
    assert estimate.high == pytest.approx(reference.high, abs=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (estimate.value, estimate.n) == (successes / n, n)


@pytest.mark.parametrize(("share", "n"), [(0.9, 30), (0.97, 180), (0.5, 15)])
def test_wilson_keeps_its_promise(share, n):
    """In 20,000 made-up evaluations the interval holds the true share about 95 % of the time."""
    hits = np.random.default_rng(0).binomial(n, share, size=20_000)
    held = [(e := wilson(int(h), n)).low <= share <= e.high for h in hits]
    assert 0.93 < np.mean(held) < 0.975


def test_the_largest_class_is_what_always_giving_one_answer_reaches() -> None:
    logits_nk, y_true_n = np.eye(3)[[0, 1, 2, 2, 0]], np.array([0, 1, 1, 1, 2])
    metrics = evaluate_logits(logits_nk, y_true_n, ("ant", "bee", "wasp"))
    assert metrics.largest_class == ("bee", 3 / 5)
    assert metrics.to_dict()["largest_class"] == {"name": "bee", "share": 3 / 5}
