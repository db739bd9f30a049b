"""How good a set of answers is. Numbers only; see `tables` for text and `fieldmark.figures` for
pictures.

Shape names: n pictures, k classes. Only pictures that were really seen may be passed in: a padded
batch would make every interval too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.errors import FieldmarkError, ModelError
from fieldmark.types import Estimate

Z_95: Final = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class against all others. What would be 0 / 0 is 0, as scikit-learn's zero_division=0.

    Attributes:
        recall: with the interval for its `num_true` pictures; 0 in [0, 1] when there are none.
        num_true: pictures of this class.
        num_predicted: pictures taken for this class, rightly or wrongly.
    """

    name: str
    precision: float
    recall: Estimate
    f1: float
    num_true: int
    num_predicted: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one part.

    Attributes:
        loss: mean cross-entropy, nats, without class weights or label smoothing.
        macro_f1: unweighted mean over the classes that occur, as truth or as an answer; a class
            that the part does not show says nothing of the model. As scikit-learn's default.
        confusion_kk: pictures; rows are the true class, columns the answer.
        top5_accuracy: share with the true class among the five likeliest; None up to five classes.
    """

    accuracy: Estimate
    loss: float
    macro_f1: float
    per_class: tuple[ClassMetrics, ...]
    confusion_kk: tuple[tuple[int, ...], ...]
    top5_accuracy: Estimate | None = None

    @property
    def largest_class(self) -> tuple[str, float]:
        """The commonest true class and its share: what always giving that answer would reach."""
        largest = max(self.per_class, key=lambda c: c.num_true)
        return largest.name, largest.num_true / self.accuracy.n

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, always finite; the confusion matrix has a file of its own."""
        values = asdict(self)
        del values["confusion_kk"]
        if self.top5_accuracy is None:
            del values["top5_accuracy"]
        values["per_class"] = list(values["per_class"])
        name, share = self.largest_class
        values["largest_class"] = {"name": name, "share": share}
        return values


def wilson(successes: int, n: int) -> Estimate:
    """The share `successes / n` with its 95 % score interval.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22
    (1927) 209-212. Unlike value +- 1.96 standard errors it stays within [0, 1] and keeps its
    promise for few pictures and for shares near 0 and 1.

    Raises:
        FieldmarkError: n is 0; a share of nothing has no value.
    """
    if n == 0:
        raise FieldmarkError(
            "there are no pictures to measure on",
            valid="at least one labelled picture",
            fix="give this part of the data some pictures, or evaluate another part",
        )
    assert 0 <= successes <= n, (successes, n)
    share = successes / n
    z2_n = Z_95**2 / n
    centre = (share + z2_n / 2) / (1 + z2_n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2_n / (4 * n)) / (1 + z2_n)
    # At 0 and n successes one end is exactly 0 or 1; rounding must not move it past the value.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(value=share, low=low, high=high, n=n)


def softmax(logits_nk: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities, (n, k) float64, each row summing to 1, from logits of any float type."""
    shifted = _shifted(logits_nk)
    exponentials = np.exp(shifted)
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def cross_entropy(logits_nk: NDArray[Any], y_true_n: NDArray[Any]) -> NDArray[np.float64]:
    """Loss of each picture, (n,) float64, nats: -log softmax(logits)[true class]."""
    shifted = _shifted(logits_nk)
    of_true = shifted[np.arange(len(shifted)), y_true_n]
    losses: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - of_true
    return losses


def evaluate_logits(
    logits_nk: NDArray[Any], y_true_n: NDArray[Any], class_names: Sequence[str]
) -> Metrics:
    """All figures of `n` answered pictures.

    The answer is the class with the largest logit; among equal ones the first, as `argmax`.

    Args:
        logits_nk: (n, k), any float type.
        y_true_n: (n,) integers in [0, k).
        class_names: k names, in the order of the columns.

    Raises:
        FieldmarkError: n is 0.
        ModelError: a logit, or the loss, is not a finite number.
    """
    logits = np.asarray(logits_nk, dtype=np.float64)
    y_true = np.asarray(y_true_n, dtype=np.int64)
    num_classes = len(class_names)
    assert logits.shape == (len(y_true), num_classes), (logits.shape, y_true.shape, num_classes)
    n = len(y_true)
    if n == 0:
        wilson(0, 0)  # says what is wrong
    assert ((y_true >= 0) & (y_true < num_classes)).all(), f"labels outside 0-{num_classes - 1}"
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    loss = float(cross_entropy(logits, y_true).mean()) if not broken else math.nan
    if not math.isfinite(loss):
        raise ModelError(
            "the network's answers are not finite numbers",
            given=f"{broken or 'some'} of {n} pictures",
            fix="its weights were probably ruined in training: train again with a lower "
            "learning rate",
        )
    y_pred = logits.argmax(axis=1)
    pairs = np.bincount(y_true * num_classes + y_pred, minlength=num_classes**2)
    confusion = pairs.reshape(num_classes, num_classes)
    per_class = _per_class(confusion, class_names)
    occurring = [c.f1 for c in per_class if c.num_true or c.num_predicted]
    return Metrics(
        accuracy=wilson(int(confusion.trace()), n),
        loss=loss,
        macro_f1=sum(occurring) / len(occurring),
        per_class=per_class,
        confusion_kk=tuple(tuple(row) for row in confusion.tolist()),
        top5_accuracy=wilson(_num_in_top(logits, y_true, 5), n) if num_classes > 5 else None,
    )


def _shifted(logits_nk: NDArray[Any]) -> NDArray[np.float64]:
    """Rows moved so that their largest logit is 0: the exponentials cannot overflow."""
    logits = np.asarray(logits_nk, dtype=np.float64)
    with np.errstate(over="ignore"):  # logits 1e308 apart: -inf is the right answer here
        shifted: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    return shifted


def _per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    num_true, num_predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    results = []
    for name, hits, true, predicted in zip(
        names, confusion.diagonal().tolist(), num_true, num_predicted, strict=True
    ):
        results.append(
            ClassMetrics(
                name=name,
                precision=hits / predicted if predicted else 0.0,
                recall=wilson(hits, true) if true else Estimate(0.0, 0.0, 1.0, 0),
                f1=2 * hits / (true + predicted) if true + predicted else 0.0,
                num_true=true,
                num_predicted=predicted,
            )
        )
    return tuple(results)


def _num_in_top(logits_nk: NDArray[np.float64], y_true_n: NDArray[np.int64], top: int) -> int:
    """Pictures whose true class is among the `top` likeliest; ties go as in `argmax`."""
    of_true = np.take_along_axis(logits_nk, y_true_n[:, None], axis=1)
    tied_before = (logits_nk == of_true) & (np.arange(logits_nk.shape[1]) < y_true_n[:, None])
    rank = ((logits_nk > of_true) | tied_before).sum(axis=1)
    return int((rank < top).sum())
