"""Running figures of an epoch, and the watch over the loss."""

from __future__ import annotations

import math

import torch

from fieldmark.errors import TrainingError
from fieldmark.training.history import EpochRow


class Meter:
    """Sums over an epoch, kept on the device so that nothing has to wait for them."""

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self.num_seen = 0
        self.recent: list[torch.Tensor] = []
        self.recent_lrs: list[float] = []
        self.last_loss = math.nan

    def add(
        self, loss: torch.Tensor, logits_bk: torch.Tensor, targets: torch.Tensor, lr: float
    ) -> None:
        """Count one batch.

        Args:
            targets: (b,) labels; or (b, k) soft targets of mixed pictures, of which the heavier
                label counts as right. The best network gets less than 1 by that measure: where the
                shares are nearly even nobody can tell which is heavier.
        """
        labels_b = targets if targets.ndim == 1 else targets.argmax(1)
        loss = loss.detach()
        self.loss_sum += loss * len(labels_b)
        self.num_correct += (logits_bk.detach().argmax(1) == labels_b).sum()
        self.num_seen += len(labels_b)
        self.recent.append(loss)
        self.recent_lrs.append(lr)

    def check_finite(self, step: int, best: EpochRow | None) -> int:
        """Look at the losses since the last look; returns how many there were.

        Raises:
            TrainingError: one is not finite.
        """
        if not self.recent:
            return 0
        losses, lrs = torch.stack(self.recent).tolist(), list(self.recent_lrs)
        self.recent.clear()
        self.recent_lrs.clear()
        self.last_loss = losses[-1]
        first = step - len(losses) + 1
        for at, (loss, lr) in enumerate(zip(losses, lrs, strict=True), start=first):
            if not math.isfinite(loss):
                raise not_finite("loss", loss, at, lr, best)
        return len(losses)

    @property
    def note(self) -> str:
        """What stands beside the bar."""
        return f"loss {self.last_loss:.3f}"

    @property
    def mean_loss(self) -> float:
        return self.loss_sum.item() / max(1, self.num_seen)

    @property
    def accuracy(self) -> float:
        return self.num_correct.item() / max(1, self.num_seen)


def not_finite(
    what: str, value: float, step: int, lr: float, best: EpochRow | None
) -> TrainingError:
    """The error for a loss of NaN or infinity; says what is kept and what to try."""
    kept = f"the model of epoch {best.epoch} is kept" if best else "no epoch was done"
    return TrainingError(
        f"the {what} became {value} at step {step}; {kept}",
        given=f"learning rate {lr:.3g} at that step",
        valid="a finite loss",
        fix="lower --lr to a tenth, or add --set optimizer.clip_norm=1 or "
        "--set schedule.warmup_epochs=1 with --schedule cosine",
    )
