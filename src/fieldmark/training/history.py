"""What is recorded of an epoch, how epochs compare, and the line people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fieldmark.progress import duration

EPOCH_HEADER = "  epoch   train loss    acc   val loss    acc        lr  seconds  left (*: best)"


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of `history.csv`.

    Training figures are means over the epoch's augmented batches, as the weights moved;
    validation figures belong to the weights at its end. The learning rate is its last step's.
    """

    epoch: int  # 1-based; 0: before the first, where what it begins with is worth keeping
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


class Judged(Protocol):
    """What a validation part has judged: an epoch, or whatever else there is to choose among."""

    @property
    def val_loss(self) -> float: ...

    @property
    def val_accuracy(self) -> float: ...


def rank(row: Judged) -> tuple[float, float]:
    """Epochs compare by validation accuracy; among equals by validation loss, low is good."""
    return row.val_accuracy, -row.val_loss


def epoch_line(history: Sequence[EpochRow], epochs: int, *, is_best: bool) -> str:
    """The last epoch as one line under `EPOCH_HEADER`, at most 80 columns; * marks the best."""
    row = history[-1]
    timed = [r.seconds for r in history if r.epoch]
    has_more = timed and row.epoch < epochs
    left = duration(sum(timed) / len(timed) * (epochs - row.epoch)) if has_more else "-"
    return (
        f"{'*' if is_best else ' '} {f'{row.epoch}/{epochs}':<7} {row.train_loss:10.4f}"
        f"  {row.train_accuracy:.3f} {row.val_loss:10.4f}  {row.val_accuracy:.3f}"
        f"  {row.lr:8.2e} {row.seconds:8.1f}  {left}"
    )
