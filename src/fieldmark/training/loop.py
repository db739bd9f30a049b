"""The training loop. Read `fit` from top to bottom: that is all that happens in a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.errors import RecipeError, TrainingError
from fieldmark.inference import run_inference
from fieldmark.models.contract import as_network
from fieldmark.progress import Progress, duration
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime
from fieldmark.training.freeze import freeze, frozen_stages, train_mode
from fieldmark.training.optim import build_loss, build_optimizer
from fieldmark.training.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of `history.csv`.

    Training figures are means over the epoch's augmented batches, as the weights moved;
    validation figures belong to the weights at its end. The learning rate is its last step's.
    """

    epoch: int  # 1-based
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass
class FitResult:
    """What a training leaves behind besides the saved model."""

    history: list[EpochRow] = field(default_factory=list)
    best: EpochRow | None = None
    stopped: str = ""  # why it ended before the last epoch; empty when it did not


def fit(
    model: nn.Module,
    train: TrainLoader,
    val: EvalLoader,
    recipe: Recipe,
    runtime: Runtime,
    progress: Progress,
    keep: Callable[[nn.Module, EpochRow, bool], None],
) -> FitResult:
    """Train `model` on the device it is on.

    Args:
        recipe: settled, so that no word says "auto".
        keep: called after each epoch with the weights that were validated, the epoch's row and
            whether it is the best so far; it saves what must not be lost.

    Raises:
        TrainingError: the loss is not finite; what `keep` saved before stands.
        RecipeError: the recipe and the network do not go together.
    """
    training, epochs = recipe.training, recipe.training.epochs
    peak_lr = recipe.optimizer.lr
    assert not isinstance(peak_lr, str), "the recipe was not settled"

    network = as_network(model)
    frozen = frozen_stages(network, recipe)
    freeze(network, frozen)
    check_batch_size(model, training.batch_size)
    optimizer = build_optimizer(model.parameters(), recipe.optimizer, peak_lr)
    counts_k = torch.bincount(train.labels_n, minlength=network.num_classes)
    criterion = build_loss(training, counts_k).to(runtime.device)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scales_gradients)
    average = _average(model, training.ema_decay)
    check_every = 1 if runtime.device.type == "cpu" else 25  # a look at the loss stops a GPU

    result = FitResult()
    step = 0
    for epoch in range(epochs):
        started = time.perf_counter()
        train_mode(model, network, frozen)
        meter = _Meter(runtime.device)
        with progress.task(f"epoch {epoch + 1}/{epochs}", total=len(train)) as task:
            for batch in train.epoch(epoch):
                # The learning rate of this very step.
                lr = learning_rate(recipe.schedule, peak_lr, step, len(train), epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr

                # Forward.
                with runtime.autocast():
                    logits_bk = model(batch.images_bchw)
                    loss = criterion(logits_bk, batch.labels_b)

                # Backward.
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if recipe.optimizer.clip_norm:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)

                # Step.
                scaler.step(optimizer)
                scaler.update()
                if average is not None:
                    average.update_parameters(model)

                # Account for it.
                meter.add(loss, logits_bk, batch.labels_b, lr)
                step += 1
                if step % check_every == 0:
                    meter.check_finite(step, result.best)
                    task.advance(check_every, f"loss {meter.last_loss:.3f}")
        meter.check_finite(step, result.best)

        # Validate the weights that would be saved, on pictures that are never augmented.
        validated = average.module if average is not None else model
        with progress.task("validation", total=len(val.store)) as task:
            outputs = run_inference(validated, val, runtime, task)
        val_loss = F.cross_entropy(outputs.logits_nk.double(), outputs.labels_n).item()
        # The last step can ruin the weights after a finite loss: keep no such model.
        if not math.isfinite(val_loss):
            raise not_finite("validation loss", val_loss, step, lr, result.best)
        num_correct = int((outputs.logits_nk.argmax(1) == outputs.labels_n).sum())
        row = EpochRow(
            epoch=epoch + 1,
            train_loss=meter.mean_loss,
            train_accuracy=meter.accuracy,
            val_loss=val_loss,
            val_accuracy=num_correct / len(outputs.labels_n),
            lr=lr,
            seconds=time.perf_counter() - started,
        )

        # Keep the best epoch by validation.
        result.history.append(row)
        is_best = result.best is None or rank(row) > rank(result.best)
        if is_best:
            result.best = row
        keep(validated, row, is_best)
        progress.say(epoch_line(row, epochs, result.history, is_best))

        # Stop early.
        assert result.best is not None
        waited = row.epoch - result.best.epoch
        if training.patience and waited >= training.patience:
            result.stopped = f"no better validation in {waited} epochs"
            break
    return result


def epoch_line(row: EpochRow, epochs: int, history: list[EpochRow], is_best: bool) -> str:
    """The one line an epoch that people read."""
    mean_seconds = sum(r.seconds for r in history) / len(history)
    left = f", {duration(mean_seconds * (epochs - row.epoch))} left" if row.epoch < epochs else ""
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}"
        f"  train loss {row.train_loss:.4f} acc {row.train_accuracy:.3f}"
        f"  val loss {row.val_loss:.4f} acc {row.val_accuracy:.3f}"
        f"  lr {row.lr:.2e}  {row.seconds:.1f} s{left}" + ("  *best" if is_best else "")
    )


def check_batch_size(model: nn.Module, batch_size: int) -> None:
    """Raise RecipeError where batch norm would have to learn from single pictures."""
    norms_train = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and any(parameter.requires_grad for parameter in module.parameters())
        for module in model.modules()
    )
    if norms_train and batch_size < 2:
        raise RecipeError(
            "batch norm cannot learn from one picture at a time",
            given=f"batch_size {batch_size}",
            valid="2 or more; 16 or more works better",
            fix="raise --batch-size, or take a network without batch norm (alexnet, vgg16)",
        )


def rank(row: EpochRow) -> tuple[float, float]:
    """Epochs compare by validation accuracy; among equals by validation loss, low is good."""
    return row.val_accuracy, -row.val_loss


def _average(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights; batch-norm statistics follow the model.

    The decay starts low, (1 + t) / (10 + t), so that short runs are not held back by their
    random start (as in TensorFlow's ExponentialMovingAverage with num_updates).
    """
    if decay == 0:
        return None

    def blend(
        averaged: Sequence[torch.Tensor],
        current: Sequence[torch.Tensor],
        num_averaged: torch.Tensor | int,
    ) -> None:
        t = int(num_averaged)  # once a step, not once a parameter: a GPU waits for it
        share = 1 - min(decay, (1 + t) / (10 + t))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, share)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=False)


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


class _Meter:
    """Sums over an epoch, kept on the device so that nothing has to wait for them."""

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self.num_seen = 0
        self.recent: list[torch.Tensor] = []
        self.recent_lrs: list[float] = []
        self.last_loss = math.nan

    def add(
        self, loss: torch.Tensor, logits_bk: torch.Tensor, labels_b: torch.Tensor, lr: float
    ) -> None:
        loss = loss.detach()
        self.loss_sum += loss * len(labels_b)
        self.num_correct += (logits_bk.detach().argmax(1) == labels_b).sum()
        self.num_seen += len(labels_b)
        self.recent.append(loss)
        self.recent_lrs.append(lr)

    def check_finite(self, step: int, best: EpochRow | None) -> None:
        """Look at the losses since the last look; raise TrainingError at the first bad one."""
        if not self.recent:
            return
        losses, lrs = torch.stack(self.recent).tolist(), list(self.recent_lrs)
        self.recent.clear()
        self.recent_lrs.clear()
        self.last_loss = losses[-1]
        first = step - len(losses) + 1
        for at, (loss, lr) in enumerate(zip(losses, lrs, strict=True), start=first):
            if not math.isfinite(loss):
                raise not_finite("loss", loss, at, lr, best)

    @property
    def mean_loss(self) -> float:
        return self.loss_sum.item() / max(1, self.num_seen)

    @property
    def accuracy(self) -> float:
        return self.num_correct.item() / max(1, self.num_seen)
