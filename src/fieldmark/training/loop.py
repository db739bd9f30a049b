"""The training loop. Read `fit` from top to bottom: that is all that happens in a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from fieldmark.errors import RecipeError
from fieldmark.inference import run_inference
from fieldmark.models.contract import as_network
from fieldmark.progress import Progress
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime
from fieldmark.training.average import moving_average
from fieldmark.training.batches import EvalBatches, TrainBatches
from fieldmark.training.freeze import (
    begin_epoch,
    check_unchanged,
    fingerprints,
    freeze,
    frozen_stages,
    unfreezing_line,
)
from fieldmark.training.history import EPOCH_HEADER, EpochRow, epoch_line, rank
from fieldmark.training.meter import Meter, not_finite
from fieldmark.training.optim import build_loss, build_optimizer, stage_lr_scales
from fieldmark.training.schedule import learning_rate


@dataclass
class FitResult:
    """What a training leaves behind besides the saved model."""

    history: list[EpochRow] = field(default_factory=list)
    best: EpochRow | None = None
    stopped: str = ""  # why it ended before the last epoch; empty when it did not


def fit(
    model: nn.Module,
    train: TrainBatches,
    val: EvalBatches,
    recipe: Recipe,
    runtime: Runtime,
    progress: Progress,
    keep: Callable[[nn.Module, EpochRow, bool], None],
    first: EpochRow | None = None,
) -> FitResult:
    """Train `model` on the device it is on.

    Args:
        train, val: batches of what `model` takes, on its device.
        recipe: settled, so that no word says "auto".
        keep: called after each epoch with the weights that were validated, the epoch's row and
            whether it is the best so far; it saves what must not be lost.
        first: figures of the weights that it begins with, as epoch 0: where training makes them no
            better they are kept. None: they are not worth keeping.

    Raises:
        TrainingError: the loss is not finite; what `keep` saved before stands. Or something frozen
            has changed, which is a mistake in Fieldmark or in the network.
        RecipeError: the recipe and the network do not go together.
    """
    training, epochs = recipe.training, recipe.training.epochs
    peak_lr = recipe.optimizer.lr
    assert not isinstance(peak_lr, str), "the recipe was not settled"

    network = as_network(model)
    frozen = freeze_for(model, recipe)
    frozen_before = fingerprints(model, network, frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr_scales = stage_lr_scales(network, recipe.transfer.stage_lr_decay)
    optimizer = build_optimizer(trained, recipe.optimizer, peak_lr, lr_scales)
    counts_k = torch.bincount(train.labels_n, minlength=network.num_classes)
    criterion = build_loss(training, counts_k).to(runtime.device)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scales_gradients)
    average = moving_average(model, training.ema_decay)
    check_every = 1 if runtime.device.type == "cpu" else 25  # a look at the loss stops a GPU

    if unfreezing := unfreezing_line(network, recipe):
        progress.say(unfreezing)
    progress.say(EPOCH_HEADER)
    result = FitResult()
    if first is not None:
        result = FitResult([first], first)
        keep(model, first, True)
        progress.say(epoch_line([first], epochs, is_best=True))
    step = 0
    for epoch in range(epochs):
        started = time.perf_counter()
        begin_epoch(model, network, recipe, epoch, trained)
        meter = Meter(runtime.device)
        with progress.task(f"epoch {epoch + 1}/{epochs}", total=len(train)) as task:
            for batch in train.epoch(epoch):
                # The learning rate of this very step; lower stages may take a share of it.
                lr = learning_rate(recipe.schedule, peak_lr, step, len(train), epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_scale"]

                # Forward.
                with runtime.autocast():
                    logits_bk = model(batch.images_bchw)
                    loss = criterion(logits_bk, batch.targets)

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
                meter.add(loss, logits_bk, batch.targets, lr)
                step += 1
                if step % check_every == 0:
                    task.advance(meter.check_finite(step, result.best), meter.note)
            task.advance(meter.check_finite(step, result.best), meter.note)

        # Validate the weights that would be saved, on pictures that are never augmented.
        validated = average.module if average is not None else model
        with progress.task("validation", total=val.num_pictures) as task:
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
        progress.say(epoch_line(result.history, epochs, is_best=is_best))

        # Stop early.
        assert result.best is not None
        waited = row.epoch - result.best.epoch
        if training.patience and waited >= training.patience:
            result.stopped = f"no better validation in {waited} epochs"
            break

    # Frozen means frozen.
    check_unchanged(frozen_before, fingerprints(model, network, frozen))
    return result


def freeze_for(model: nn.Module, recipe: Recipe) -> tuple[str, ...]:
    """Freeze what the recipe's mode freezes; returns those stages.

    Raises:
        RecipeError: no such stage, or batches of one where batch norm learns.
    """
    network = as_network(model)
    stages = frozen_stages(network, recipe)
    freeze(network, stages)
    if recipe.transfer.norms != "eval":
        check_batch_size(model, recipe.training.batch_size)
    return stages


def parameters_line(model: nn.Module) -> str:
    """`2.2 M parameters`, and how many of them train where that is not all, for people."""
    of_all = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    few = f"{trained:,}" if trained < 100_000 else f"{trained / 1e6:.1f} M"
    return f"{of_all / 1e6:.1f} M parameters" + (f", {few} of them train" * (trained < of_all))


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
            fix="raise --batch-size, take a network without batch norm (alexnet, vgg16) or, for a "
            "trained one, --norms eval",
        )
