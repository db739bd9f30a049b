"""Logistic regression on stored features: the head that one frozen network and one plane make.

Convex, so there is one answer and no schedule to choose; the only thing that is open, how strongly
the weights are held small, is chosen on pictures that the fit has not seen.

Legend beside that of `types`:  d  features   v  views of a picture   m  pictures to choose by
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import log, nan
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldmark.errors import ModelError

# Strong to weak, two thirds of a decade apart. Features are standardised, so these fit any network.
STRENGTHS: Final = tuple(10 ** (2 - 2 / 3 * step) for step in range(10))  # 100 to 0.0001
ROWS_AT_ONCE: Final = 8192
EXACT_BYTES: Final = 2**29  # features are kept standardised in float64 up to so many
ONE_THREAD_UP_TO: Final = 2**21  # numbers; below, threads cost more than they bring
MAX_STEPS: Final = 500  # of L-BFGS for each strength; 10 to 80 are usual
CONSTANT: Final = 1e-12  # a deviation this small beside the mean is rounding
FLAT: Final = 1e-30  # and one this small cannot be divided by in float32


@dataclass(frozen=True, slots=True)
class StrengthRow:
    """One strength that was tried. Losses are mean cross-entropies in nats, without the penalty.

    Where the choice was made by inner folds, validation figures are over all pictures that were
    held out, each by the fit that did not see it; NaN where there were none.
    """

    strength: float
    train_loss: float  # of the whole fit, pictures weighted as it weighted them
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A linear layer on the features as they are: standardising is folded into it.

    Attributes:
        weight_kd, bias_k: float32, on the CPU.
        strength: the one of `table` that it was fitted with.
        table: in the order they were tried, strong to weak.
    """

    weight_kd: Tensor
    bias_k: Tensor
    strength: float
    table: tuple[StrengthRow, ...]

    def logits(self, features_nd: Tensor) -> Tensor:
        """(n, k) float32, from features of any float type on any device."""
        device = features_nd.device
        return F.linear(features_nd.float(), self.weight_kd.to(device), self.bias_k.to(device))


def fit_logistic(
    features_nvd: Tensor,
    labels_n: Tensor,
    num_classes: int,
    *,
    val_features_md: Tensor | None = None,
    val_labels_m: Tensor | None = None,
    fold_n: Tensor | None = None,
    exact_nd: Tensor | None = None,
    strengths: Sequence[float] = STRENGTHS,
    class_weights: Tensor | None = None,
) -> LogisticFit:
    """Multinomial logistic regression, its strength chosen by validation or by inner folds.

    Minimises, over W and b, with z the features standardised by the mean and deviation of the rows,

        sum_i w_i * -log softmax(W z_i + b)[y_i] / sum_i w_i  +  strength / 2 * |W|^2

    by L-BFGS with a line search for the strong Wolfe conditions (Nocedal, Wright, "Numerical
    Optimization", 2nd ed. 2006, chapters 3 and 7), in float64, each strength from where the
    stronger one before it ended. scikit-learn's `LogisticRegression` finds the same on `z` with
    C = 1 / (strength * sum_i w_i). Means and deviations are weighted too, so a picture that is
    there twice and one with twice the weight are the same.

    The strength with the lowest validation loss wins, of equals the strongest: on the few dozen
    pictures that validation often has, accuracy is the same for many strengths, and best for one
    that answers everything with 0.55. With inner folds each fold is predicted by a
    fit without it, and the chosen strength is then fitted on all. Nothing to choose by (a `fold_n`
    without folds) takes the middle strength.

    A class without pictures gets no weights and a logit of -log(2 n) beside the others' mean of 0:
    as if it had been seen half a time, and never the answer. Features that never change get no
    weight. Beyond 64 million numbers, standardised features are made piece by piece in float32
    instead of being kept.

    Args:
        features_nvd: (n, d), or (n, v, d) for several views, any float type, on any device. Views
            are rows of their own, and the weight of a picture is 1 all the same.
        labels_n: (n,) integers in [0, num_classes).
        val_features_md, val_labels_m: what to choose by; without them `fold_n` is needed.
        fold_n: (n,) integers, the inner fold of each picture (`training.folds.inner_folds`);
            -1 for those that are never held out. Not heeded where there is a validation part.
        exact_nd: (n, d), the same pictures as evaluation sees them; held-out pictures are judged
            by these. None: by all their views.
        strengths: above 0, in any order.
        class_weights: (k,), what a picture of each class counts; None: 1. Training only.

    Raises:
        ModelError: a feature is not a finite number.
    """
    views_nvd = features_nvd if features_nvd.dim() == 3 else features_nvd[:, None]
    assert len(views_nvd) == len(labels_n) > 0, (features_nvd.shape, labels_n.shape)
    assert set(labels_n.tolist()) <= set(range(num_classes)), num_classes
    assert all(strength > 0 for strength in strengths), strengths
    has_any = val_features_md is not None or fold_n is not None or len(strengths) == 1
    assert has_any, "nothing to choose the strength by"
    labels_n = labels_n.to(views_nvd.device).long()
    weight_n = torch.ones(len(labels_n), dtype=torch.float64, device=labels_n.device)
    if class_weights is not None:
        weight_n = class_weights.to(weight_n)[labels_n]
    strengths = sorted(strengths, reverse=True)

    with _few_threads(views_nvd):
        layers, train_losses = _fit_path(views_nvd, labels_n, weight_n, num_classes, strengths)
    if val_features_md is not None:
        assert val_labels_m is not None
        figures = [_judge(layer, val_features_md, val_labels_m) for layer in layers]
        num_judged = len(val_labels_m)
    else:
        figures, num_judged = [(0.0, 0)] * len(strengths), 0
        shown_nvd = views_nvd if exact_nd is None else exact_nd[:, None]
        dealt_n = fold_n if fold_n is not None and len(strengths) > 1 else labels_n[:0]
        for fold in sorted({*dealt_n.tolist()} - {-1}):
            held_n = (dealt_n == fold).to(labels_n.device)
            if held_n.all():
                continue  # a single fold: nothing would be left to fit
            with _few_threads(views_nvd):
                weight_of_rest_n = weight_n * ~held_n
                inner, _ = _fit_path(views_nvd, labels_n, weight_of_rest_n, num_classes, strengths)
            shown_md = shown_nvd[held_n].flatten(0, 1)
            its_m = labels_n[held_n].repeat_interleave(shown_nvd.shape[1])
            num_judged += len(its_m)
            for i, layer in enumerate(inner):
                loss, hits = _judge(layer, shown_md, its_m)
                figures[i] = (figures[i][0] + loss, figures[i][1] + hits)
    table = tuple(
        StrengthRow(strength, train_loss, loss / num_judged, hits / num_judged)
        if num_judged
        else StrengthRow(strength, train_loss, nan, nan)
        for strength, train_loss, (loss, hits) in zip(strengths, train_losses, figures, strict=True)
    )
    best = len(table) // 2
    if num_judged:
        best = min(range(len(table)), key=lambda i: table[i].val_loss)  # the first of equals
    weight_kd, bias_k = layers[best]
    return LogisticFit(weight_kd.cpu(), bias_k.cpu(), table[best].strength, table)


def _judge(layer: tuple[Tensor, Tensor], shown_md: Tensor, labels_m: Tensor) -> tuple[float, int]:
    """The summed cross-entropy and the hits of the layer as it will be used: in float32."""
    loss, hits = 0.0, 0
    for start in range(0, len(labels_m), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        logits_bk = F.linear(shown_md[rows].to(layer[0]), *layer)
        y_true = labels_m[rows].to(logits_bk.device).long()
        loss += float(F.cross_entropy(logits_bk.double(), y_true, reduction="sum"))
        hits += int((logits_bk.argmax(dim=1) == y_true).sum())
    return loss, hits


@contextmanager
def _few_threads(views_nvd: Tensor) -> Iterator[None]:
    """One thread for small fits: hundreds of short steps, after each of which threads would wait
    for one another. On a machine that is busy that makes 0.1 s ten."""
    before = torch.get_num_threads()
    if views_nvd.numel() <= ONE_THREAD_UP_TO:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Rows:
    """The rows of a fit: every view of every picture, standardised, a piece at a time."""

    def __init__(self, views_nvd: Tensor, labels_n: Tensor, weight_n: Tensor) -> None:
        num_views = views_nvd.shape[1]
        self.features_rd = views_nvd.flatten(0, 1)
        self.labels_r = labels_n.repeat_interleave(num_views)
        # They sum to 1, so that sums over rows are means.
        self.weight_r = (weight_n / weight_n.sum() / num_views).repeat_interleave(num_views)
        self.mean_d, self.scale_d = self._moments()
        small = self.features_rd.numel() * 8 <= EXACT_BYTES
        self.dtype = torch.float64 if small else torch.float32
        self.kept_rd = self._standardised(slice(None)) if small else None

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Standardised features (r, d), labels (r,) and weights (r,) of some rows after others."""
        for rows in self._slices():
            kept = self.kept_rd
            piece_rd = self._standardised(rows) if kept is None else kept[rows]
            yield piece_rd, self.labels_r[rows], self.weight_r[rows]

    def _slices(self) -> Iterator[slice]:
        for start in range(0, len(self.labels_r), ROWS_AT_ONCE):
            yield slice(start, start + ROWS_AT_ONCE)

    def _standardised(self, rows: slice) -> Tensor:
        # float64 until the mean is off: float32 would lose what is small beside it. One copy.
        return (self.features_rd[rows] - self.mean_d).div_(self.scale_d).to(self.dtype)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Weighted mean and deviation of each feature, (d,) float64; infinite for a constant one,
        which becomes 0 when it is divided."""
        zero_d = torch.zeros_like(self.features_rd[0], dtype=torch.float64)
        mean_d, variance_d = zero_d.clone(), zero_d.clone()
        for rows in self._slices():
            mean_d += self.weight_r[rows] @ self.features_rd[rows].double()
        for rows in self._slices():
            variance_d += self.weight_r[rows] @ (self.features_rd[rows].double() - mean_d).square()
        if not bool(torch.isfinite(variance_d).all()):
            raise ModelError(
                "the network's features are not finite numbers",
                given=f"{int((~torch.isfinite(variance_d)).sum())} of {len(variance_d)} features",
                fix="its weights are damaged, or too large for the precision: try --precision "
                "float32",
            )
        deviation_d = variance_d.sqrt()
        constant_d = (deviation_d <= CONSTANT * mean_d.abs()) | (deviation_d < FLAT)
        return mean_d, deviation_d.masked_fill(constant_d, torch.inf)


def _fit_path(
    views_nvd: Tensor,
    labels_n: Tensor,
    weight_n: Tensor,
    num_classes: int,
    strengths: Sequence[float],
) -> tuple[list[tuple[Tensor, Tensor]], list[float]]:
    """For each strength, strong to weak, the layer on raw features, float32, and its loss."""
    rows = _Rows(views_nvd, labels_n, weight_n)
    num_features = views_nvd.shape[-1]
    there_k = torch.zeros(num_classes, dtype=torch.bool, device=labels_n.device)
    there_k[labels_n[weight_n > 0]] = True
    absent_logit = -log(2 * max(1, int((weight_n > 0).sum())))
    zero = torch.zeros((), dtype=torch.float64, device=labels_n.device)
    weight_kd, bias_k = zero.repeat(num_classes, num_features), zero.repeat(num_classes)
    loss = zero

    def measure(strength: float) -> Tensor:
        """The objective; gradients go where the optimizer looks for them."""
        nonlocal loss
        loss = zero
        gradient_kd, gradient_k = torch.zeros_like(weight_kd), torch.zeros_like(bias_k)
        plane_kd = weight_kd.to(rows.dtype)
        for piece_rd, labels_r, weight_r in rows.pieces():
            logits_rk = (piece_rd @ plane_kd.T).double() + bias_k
            logits_rk = logits_rk.masked_fill(~there_k, -torch.inf)
            log_share_rk = torch.log_softmax(logits_rk, dim=1)
            # Where the weight is 0 the class may be absent, and 0 * infinity is no number.
            of_true_r = log_share_rk.gather(1, labels_r[:, None])[:, 0]
            loss = loss - (weight_r * of_true_r.masked_fill(weight_r == 0, 0)).sum()
            error_rk = log_share_rk.exp()
            error_rk[torch.arange(len(labels_r), device=labels_r.device), labels_r] -= 1
            error_rk *= weight_r[:, None]
            gradient_kd += (error_rk.to(rows.dtype).T @ piece_rd).double()
            gradient_k += error_rk.sum(dim=0)
        weight_kd.grad, bias_k.grad = gradient_kd + strength * weight_kd, gradient_k
        objective: Tensor = loss + strength / 2 * weight_kd.square().sum()
        return objective

    layers, losses = [], []
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [weight_kd, bias_k],
            max_iter=MAX_STEPS,
            max_eval=2 * MAX_STEPS,
            tolerance_grad=1e-6 if rows.dtype is torch.float64 else 1e-5,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        with torch.no_grad():
            optimizer.step(partial(measure, strength))  # type: ignore[no-untyped-call]
            measure(strength)  # the loss where it ended, not where the search last looked
            # Logits are the same with any number added to all; a mean of 0 is what is meant here.
            centred_k = bias_k - bias_k[there_k].mean()
            raw_kd = weight_kd / rows.scale_d
            raw_k = centred_k.masked_fill(~there_k, absent_logit) - raw_kd @ rows.mean_d
        layers.append((raw_kd.float(), raw_k.float()))
        losses.append(float(loss))
    return layers, losses
