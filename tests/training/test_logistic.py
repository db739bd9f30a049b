"""Logistic regression on features, beside scikit-learn's; and what must not change its answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fieldmark.errors import ModelError
from fieldmark.training import logistic
from fieldmark.training.logistic import LogisticFit, fit_logistic

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 999)


def made(n: int, d: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of different scales and offsets, and labels that they tell something of."""
    generator = torch.Generator().manual_seed(seed)
    plane_kd = torch.randn(k, d, generator=generator)
    z_nd = torch.randn(n, d, generator=generator)
    noise_nk = torch.randn(n, k, generator=generator) * d**0.5 / 2
    labels_n = (z_nd @ plane_kd.T + noise_nk).argmax(dim=1)
    labels_n[:k] = torch.arange(k)
    scale_d = torch.logspace(-1, 1, d)
    return z_nd * scale_d + 3 * scale_d, labels_n


def shares(fitted: LogisticFit, features_nd: Tensor) -> Tensor:
    return torch.softmax(fitted.logits(features_nd).double(), dim=1)


def fit_one(
    features: Tensor, labels_n: Tensor, k: int, strength: float = 0.01, **words: Any
) -> Any:
    return fit_logistic(features, labels_n, k, strengths=(strength,), **words)


@pytest.mark.parametrize("strength", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize(("n", "d", "k"), [(120, 8, 2), (150, 20, 4), (40, 90, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_answer_is_scikit_learns(
    n: int, d: int, k: int, strength: float, weighted: bool
) -> None:
    features_nd, labels_n = made(n, d, k)
    weight_k = torch.arange(1.0, k + 1) if weighted else torch.ones(k)
    weight_n = weight_k[labels_n].double().numpy()
    x = features_nd.double().numpy()
    mean = np.average(x, axis=0, weights=weight_n)
    z = (x - mean) / np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight_n))
    # With two classes scikit-learn fits one plane w = w1 - w0, and |w|^2 = 2 (|w0|^2 + |w1|^2).
    c = 1 / (strength * weight_n.sum()) * (2 if k == 2 else 1)
    reference = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
    reference.fit(z, labels_n.numpy(), sample_weight=weight_n)
    fitted = fit_one(features_nd, labels_n, k, strength, class_weights=weight_k)
    np.testing.assert_allclose(shares(fitted, features_nd), reference.predict_proba(z), atol=1e-3)


def test_it_is_a_plain_float32_layer_on_raw_features() -> None:
    features_nd, labels_n = made(60, 5, 3)
    fitted = fit_one(features_nd, labels_n, 3)
    assert fitted.weight_kd.dtype == fitted.bias_k.dtype == torch.float32
    assert fitted.weight_kd.shape == (3, 5)
    layer = torch.nn.Linear(5, 3)
    layer.load_state_dict({"weight": fitted.weight_kd, "bias": fitted.bias_k})
    torch.testing.assert_close(layer(features_nd), fitted.logits(features_nd))
    torch.testing.assert_close(
        fitted.logits(features_nd.bfloat16()), layer(features_nd.bfloat16().float())
    )


@few
@given(seeds, st.sampled_from([1e-12, 1e-3, 7.0, 1e9]), st.floats(-100, 100))
def test_scale_and_offset_of_a_feature_change_nothing(
    seed: int, scale: float, offset: float
) -> None:
    features_nd, labels_n = made(50, 6, 3, seed)
    other_nd = features_nd.clone()
    other_nd[:, 2] = (other_nd[:, 2] + offset) * scale
    torch.testing.assert_close(
        shares(fit_one(features_nd, labels_n, 3), features_nd),
        shares(fit_one(other_nd, labels_n, 3), other_nd),
        atol=2e-3,
        rtol=0,
    )


@few
@given(seeds)
def test_order_does_not_matter(seed: int) -> None:
    features_nd, labels_n = made(50, 6, 3, seed)
    order_n = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        shares(fit_one(features_nd, labels_n, 3), features_nd),
        shares(fit_one(features_nd[order_n], labels_n[order_n], 3), features_nd),
        atol=1e-4,
        rtol=0,
    )


@few
@given(seeds, st.integers(2, 4))
def test_a_picture_that_is_there_twice_counts_twice(seed: int, times: int) -> None:
    features_nd, labels_n = made(40, 6, 3, seed)
    times_n = torch.where(labels_n == 1, times, 1)
    repeated = fit_one(
        features_nd.repeat_interleave(times_n, 0), labels_n.repeat_interleave(times_n), 3
    )
    weighted = fit_one(features_nd, labels_n, 3, class_weights=torch.tensor([1.0, times, 1.0]))
    torch.testing.assert_close(
        shares(repeated, features_nd), shares(weighted, features_nd), atol=1e-4, rtol=0
    )


def test_views_are_rows_and_a_picture_counts_once() -> None:
    features_nd, labels_n = made(60, 6, 3)
    views_nvd = features_nd.reshape(20, 3, 6)
    of_rows = fit_one(features_nd, labels_n[::3].repeat_interleave(3), 3)
    of_views = fit_one(views_nvd, labels_n[::3], 3)
    torch.testing.assert_close(of_rows.weight_kd, of_views.weight_kd, atol=1e-4, rtol=1e-3)
    same = features_nd[:20, None].expand(-1, 4, -1)
    once, often = fit_one(features_nd[:20], labels_n[:20], 3), fit_one(same, labels_n[:20], 3)
    torch.testing.assert_close(once.weight_kd, often.weight_kd, atol=1e-4, rtol=1e-3)


def test_the_strength_is_chosen_by_the_loss_on_validation() -> None:
    features_nd, labels_n = made(90, 40, 3)
    fitted = fit_logistic(
        features_nd[:60],
        labels_n[:60],
        3,
        val_features_md=features_nd[60:],
        val_labels_m=labels_n[60:],
    )
    assert [row.strength for row in fitted.table] == sorted(logistic.STRENGTHS, reverse=True)
    losses = [row.train_loss for row in fitted.table]
    assert losses == sorted(losses, reverse=True), "the weaker the strength, the closer the fit"

    best = min(fitted.table, key=lambda row: row.val_loss)
    assert fitted.strength == best.strength
    logits_mk = fitted.logits(features_nd[60:])
    loss = float(torch.nn.functional.cross_entropy(logits_mk, labels_n[60:]))
    assert loss == pytest.approx(best.val_loss, abs=1e-6)
    assert float((logits_mk.argmax(1) == labels_n[60:]).double().mean()) == best.val_accuracy
    alone = fit_one(features_nd[:60], labels_n[:60], 3, fitted.strength)
    torch.testing.assert_close(
        shares(alone, features_nd), shares(fitted, features_nd), atol=1e-3, rtol=0
    )


def test_a_lucky_accuracy_on_few_pictures_does_not_choose() -> None:
    """Of a dozen pictures a fit hardly above chance may have one more right than a good one."""
    num_lucky = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        labels_n = torch.arange(72) % 2
        features_nd = torch.randn(72, 30, generator=generator)
        features_nd[:, 0] += 2 * labels_n
        few = {"val_features_md": features_nd[60:], "val_labels_m": labels_n[60:]}
        table = fit_logistic(features_nd[:60], labels_n[:60], 2, **few).table
        chosen = fit_logistic(features_nd[:60], labels_n[:60], 2, **few).strength
        losses = {row.strength: row.val_loss for row in table}
        lucky = max(table, key=lambda row: row.val_accuracy)
        assert losses[chosen] == min(losses.values())
        num_lucky += lucky.val_loss > 1.2 * losses[chosen]
    assert num_lucky > 0, "nothing was tested"


def test_inner_folds_judge_each_picture_by_a_fit_without_it() -> None:
    features_nd, labels_n = made(60, 30, 2)
    fold_n = torch.arange(60) % 3
    fold_n[:4] = -1  # never held out
    fitted = fit_logistic(features_nd, labels_n, 2, fold_n=fold_n, strengths=(1.0, 0.01))
    for row in fitted.table:
        hits, loss = 0, 0.0
        for fold in range(3):
            held_n = fold_n == fold
            one = fit_one(features_nd[~held_n], labels_n[~held_n], 2, row.strength)
            logits_mk = one.logits(features_nd[held_n]).double()
            hits += int((logits_mk.argmax(1) == labels_n[held_n]).sum())
            loss += float(
                torch.nn.functional.cross_entropy(logits_mk, labels_n[held_n], reduction="sum")
            )
        assert row.val_accuracy == hits / 56
        assert row.val_loss == pytest.approx(loss / 56, rel=2e-3)
    whole = fit_one(features_nd, labels_n, 2, fitted.strength)
    torch.testing.assert_close(
        shares(whole, features_nd), shares(fitted, features_nd), atol=1e-3, rtol=0
    )


def test_held_out_pictures_are_judged_by_their_exact_features() -> None:
    features_nd, labels_n = made(40, 5, 2)
    wild_nvd = torch.stack([features_nd, features_nd], dim=1)
    exact = fit_logistic(
        wild_nvd,
        labels_n,
        2,
        fold_n=torch.arange(40) % 2,
        exact_nd=torch.zeros(40, 5),
        strengths=(1, 2),
    )
    largest = max(int((labels_n[i::2] == k).sum()) for i in range(2) for k in range(2))
    assert exact.table[0].val_accuracy <= 2 * largest / 40, "all look the same to be judged"
    both = fit_logistic(wild_nvd, labels_n, 2, fold_n=torch.arange(40) % 2, strengths=(1, 2))
    assert both.table[0].val_accuracy > exact.table[0].val_accuracy


def test_nothing_to_choose_by_takes_the_middle_strength() -> None:
    features_nd, labels_n = made(12, 5, 2)
    fitted = fit_logistic(features_nd, labels_n, 2, fold_n=torch.full((12,), -1))
    assert fitted.strength == sorted(logistic.STRENGTHS)[4]
    assert math.isnan(fitted.table[0].val_loss)
    with pytest.raises(AssertionError, match="nothing to choose"):
        fit_logistic(features_nd, labels_n, 2)


def test_a_feature_that_never_changes_has_no_weight() -> None:
    features_nd, labels_n = made(50, 5, 2)
    plain = fit_one(features_nd, labels_n, 2)
    features_nd = torch.cat([features_nd, torch.full((50, 1), 0.1), torch.zeros(50, 1)], dim=1)
    fitted = fit_one(features_nd, labels_n, 2)
    assert (fitted.weight_kd[:, 5:] == 0).all()
    torch.testing.assert_close(fitted.weight_kd[:, :5], plain.weight_kd)


@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1e8, 1e25])
def test_huge_and_tiny_features_are_as_good_as_others(scale: float) -> None:
    features_nd, labels_n = made(50, 6, 3)
    fitted = fit_one(features_nd * scale, labels_n, 3)
    torch.testing.assert_close(
        shares(fitted, features_nd * scale),
        shares(fit_one(features_nd, labels_n, 3), features_nd),
        atol=1e-3,
        rtol=0,
    )


def test_a_class_with_one_picture_and_classes_without_any() -> None:
    features_nd, labels_n = made(40, 60, 2)
    labels_n[0] = 3  # classes 2 and 4 have none
    fitted = fit_logistic(
        features_nd, labels_n, 5, val_features_md=features_nd[10:], val_labels_m=labels_n[10:]
    )
    assert torch.isfinite(fitted.weight_kd).all()
    assert torch.isfinite(fitted.bias_k).all()
    answers_n = fit_one(features_nd, labels_n, 5, 1e-4).logits(features_nd).argmax(dim=1)
    assert answers_n.tolist() == labels_n.tolist()
    assert shares(fitted, features_nd)[:, [2, 4]].max() < 1 / 40


def test_val_may_know_a_class_that_train_lacks() -> None:
    features_nd, labels_n = made(40, 5, 3)
    seen_n = labels_n < 2
    fitted = fit_logistic(
        features_nd[seen_n], labels_n[seen_n], 3, val_features_md=features_nd, val_labels_m=labels_n
    )
    assert all(math.isfinite(row.val_loss) for row in fitted.table)


def test_one_class_alone_and_one_picture_alone() -> None:
    features_nd, _ = made(10, 4, 2)
    fitted = fit_one(features_nd, torch.zeros(10, dtype=torch.long), 1)
    assert (shares(fitted, features_nd) == 1).all()
    lonely = fit_one(features_nd[:1], torch.tensor([1]), 3)
    assert lonely.logits(features_nd).argmax(dim=1).tolist() == [1] * 10


def test_large_features_piece_by_piece_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features_nd, labels_n = made(300, 8, 3)
    kept = fit_one(features_nd, labels_n, 3)
    monkeypatch.setattr(logistic, "EXACT_BYTES", 0)
    monkeypatch.setattr(logistic, "ROWS_AT_ONCE", 64)
    pieces = fit_one(features_nd, labels_n, 3)
    torch.testing.assert_close(
        shares(kept, features_nd), shares(pieces, features_nd), atol=1e-3, rtol=0
    )


def test_threads_are_as_they_were() -> None:
    before = torch.get_num_threads()
    features_nd, labels_n = made(20, 4, 2)
    fit_one(features_nd, labels_n, 2)
    assert torch.get_num_threads() == before


def test_features_that_are_no_numbers_are_refused() -> None:
    features_nd, labels_n = made(20, 4, 2)
    features_nd[3, 1] = torch.nan
    features_nd[4, 2] = torch.inf
    with pytest.raises(ModelError, match="not finite numbers") as caught:
        fit_one(features_nd, labels_n, 2)
    assert "2 of 4 features" in str(caught.value)
