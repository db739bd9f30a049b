"""Heads on stored features that no epochs are needed for: logistic regression, alone, as the start
of a fine-tuning, and fold by fold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from fieldmark.assembly.trainee import FrozenPart, Trainee, prepare_trainee, whole
from fieldmark.auto.modes import usual_lr
from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.prepare import PreparedData, decode_exactly
from fieldmark.data.views import EXACT
from fieldmark.errors import RecipeError
from fieldmark.evaluation.metrics import evaluate_logits
from fieldmark.evaluation.tables import csv_text
from fieldmark.files import write_text
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import linear_classifier, parts_of, set_classifier
from fieldmark.pretrained import Pretrained
from fieldmark.progress import Progress, Silent, duration
from fieldmark.recipe import Recipe, TransferRecipe
from fieldmark.rundir import RunDirectory
from fieldmark.runtime import Runtime
from fieldmark.training.folds import OutOfFold, out_of_fold
from fieldmark.training.freeze import check_unchanged, fingerprints, frozen_stages
from fieldmark.training.history import EPOCH_HEADER, EpochRow, epoch_line
from fieldmark.training.logistic import LogisticFit, fit_logistic
from fieldmark.training.loop import FitResult, fit
from fieldmark.training.optim import class_weights

HEAD_FIRST_VIEWS = 2  # a picture; more move a head that only begins a training by next to nothing
HEAD_FIRST_EPOCHS = 5  # over features, of a head that is more than one linear layer

Keep = Callable[[nn.Module, EpochRow, bool], None]


def fit_logistic_head(
    trainee: Trainee, recipe: Recipe, progress: Progress, keep: Keep
) -> tuple[FitResult, LogisticFit]:
    """As `fit`, for `transfer.head = logistic`: one row of history, one answer.

    Raises:
        RecipeError: the features are not what a linear layer takes, or are not stored.
    """
    started = time.perf_counter()
    if trainee.frozen is None:
        raise RecipeError(
            "a logistic head needs stored features, and the frozen part runs in every epoch",
            given="transfer.head = logistic",
            fix="take --head own",
        )
    frozen = trainee.frozen
    model = whole(trainee.module)
    network = as_network(model)
    stages = frozen_stages(network, recipe)
    before = fingerprints(model, network, stages)
    if not _takes_regression(frozen, network, recipe):
        raise _no_regression(network, frozen)
    with progress.task("logistic regression", None):
        fitted = _fit_on(frozen, trainee, recipe)
    set_classifier(network, fitted.weight_kd, fitted.bias_k)
    row = _row_of(fitted, trainee, frozen, 1, started)
    progress.say(
        f"logistic regression: strength {fitted.strength:.2g} is the best of {len(fitted.table)} "
        "by validation loss; one answer, so epochs, optimizer and learning rate play no part"
    )
    progress.say(EPOCH_HEADER)
    keep(model, row, True)
    progress.say(epoch_line([row], 1, is_best=True))
    check_unchanged(before, fingerprints(model, network, stages))
    return FitResult([row], row), fitted


def check_folds(trainee: Trainee, recipe: Recipe) -> None:
    """Raise RecipeError, before any epoch, where folds are asked for and nothing is stored."""
    if recipe.transfer.folds and trainee.frozen is None:
        raise RecipeError(
            "folds need stored features, and the frozen part runs in every epoch",
            given=f"transfer.folds = {recipe.transfer.folds}",
            fix="leave --folds out, or make room for the features (fieldmark cache)",
        )


def without_needless_head(
    recipe: Recipe, asked: Recipe, model: nn.Module, weights: Pretrained | None, progress: Progress
) -> Recipe:
    """The recipe without `head_first` where nobody asked for it and the classifier is no new one:
    weights that know these classes have a head that fits.

    Args:
        recipe: settled.
        asked: as it was before that.
        model: with the weights in it.
    """
    is_open = asked.transfer.head_first == "auto" and recipe.transfer.head_first
    if not is_open or weights is None or not _has_classifier_of(model, weights):
        return recipe
    progress.say("head first: left out, as the classifier came with the weights")
    return replace(recipe, transfer=replace(recipe.transfer, head_first=False))


def _has_classifier_of(model: nn.Module, weights: Pretrained) -> bool:
    """Whether the last layer came along, be it with its classes in another order."""
    state = model.state_dict()
    for name in as_network(model).classifiers:
        own = state[f"{name}.weight"].flatten(1).float().cpu()
        for theirs in weights.tensors.values():
            if theirs.ndim > 1 and theirs.flatten(1).shape == own.shape:
                sums = theirs.flatten(1).float().cpu().sum(1)
                if torch.equal(sums.sort().values, own.sum(1).sort().values):
                    return True
    return False


def start_from_head(
    model: nn.Module,
    data: PreparedData,
    recipe: Recipe,
    runtime: Runtime,
    loaders: tuple[TrainLoader, EvalLoader],
    progress: Progress,
) -> EpochRow | None:
    """Give a network that is to train on a head that fits its features (Kumar et al. 2022).

    By logistic regression where one linear layer is what trains on the features, else by a few
    epochs over them. Nothing below the head changes, and everything may train afterwards.

    Returns:
        Its figures, as epoch 0; None where features cannot be stored.
    """
    started = time.perf_counter()
    augments = bool(recipe.transfer.views) or data.train.form.kind != "exact"
    views = HEAD_FIRST_VIEWS if augments else 0
    transfer = TransferRecipe(head=recipe.transfer.head, hidden=recipe.transfer.hidden, views=views)
    head_recipe = replace(
        recipe,
        mode="frozen",
        transfer=replace(transfer, norms=recipe.transfer.norms),
        training=replace(recipe.training, freeze_through=""),
    )
    trained = [parameter.requires_grad for parameter in model.parameters()]
    trainee = prepare_trainee(model, data, head_recipe, runtime, loaders, progress)
    if trainee.frozen is None:
        progress.say("head first: left out, as the features cannot be stored")
        return None
    if _takes_regression(trainee.frozen, as_network(model), head_recipe):
        fitted = _fit_on(trainee.frozen, trainee, recipe)
        set_classifier(as_network(model), fitted.weight_kd, fitted.bias_k)
        row = _row_of(fitted, trainee, trainee.frozen, 0, started)
    elif recipe.transfer.head == "logistic":
        raise _no_regression(as_network(model), trainee.frozen)
    else:
        row = replace(_train_head(trainee, head_recipe, runtime), epoch=0, lr=0.0)
    for parameter, trains in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(trains)
    row = replace(row, seconds=time.perf_counter() - started)
    progress.say(
        f"head first: validation accuracy {row.val_accuracy:.3f} after {duration(row.seconds)}; "
        "kept as epoch 0, should training not improve on it"
    )
    return row


def predict_out_of_fold(
    run: RunDirectory,
    frozen: FrozenPart,
    data: PreparedData,
    recipe: Recipe,
    runtime: Runtime,
    fitted: LogisticFit | None,
    progress: Progress,
) -> OutOfFold:
    """Each training picture's probabilities by a head that saw neither it nor its group.

    Written to the run's `out_of_fold.csv`, with the accuracy said.

    Args:
        fitted: whose strength is taken; None: each fold chooses its own.

    Raises:
        SourceError: too few pictures or groups for so many folds.
    """
    exact = frozen.train
    if exact.views != (EXACT,):
        store = _exact_store(data, recipe, runtime, progress)
        exact = frozen.maker.exact(store, "features of train as it is")
    labels_n = torch.tensor(data.labels(data.train))
    counts_k = torch.bincount(labels_n, minlength=len(data.manifest.class_names))
    with progress.task(f"{recipe.transfer.folds} folds", None):
        found = out_of_fold(
            frozen.train.values.flatten(2),
            exact.values[:, 0].flatten(1),
            data.train.samples,
            data.manifest.class_names,
            recipe.transfer.folds,
            recipe.seed,
            strength=fitted.strength if fitted else None,
            class_weights=class_weights(recipe.training, counts_k),
        )
    write_text(run.out_of_fold, csv_text([found.header, *found.rows()]))
    logits_nk = found.probabilities_nk.clamp_min(1e-30).log().numpy()
    metrics = evaluate_logits(logits_nk, labels_n.numpy(), data.manifest.class_names)
    estimate = metrics.accuracy
    progress.say(
        f"out of fold ({recipe.transfer.folds} folds, logistic regression): accuracy "
        f"{estimate.value:.3f}, 95 % interval {estimate.low:.3f}-{estimate.high:.3f}, macro F1 "
        f"{metrics.macro_f1:.3f}, {estimate.n:,} training pictures; {run.out_of_fold}"
    )
    return found


def _exact_store(
    data: PreparedData, recipe: Recipe, runtime: Runtime, progress: Progress
) -> PixelStore:
    train = replace(data.manifest, samples=data.train.samples)
    return decode_exactly(train, data.preprocess, runtime, progress, strict=recipe.data.strict)


def _takes_regression(frozen: FrozenPart, network: Network, recipe: Recipe) -> bool:
    """Whether what trains on these features is one linear layer with biases, and nothing else."""
    layer = linear_classifier(network)
    return (
        layer is not None
        and layer.bias is not None
        and math.prod(frozen.train.shape[1:]) == 1  # or a convolution sees several places
        and frozen_stages(network, recipe) == tuple(parts_of(network))[:-1]
    )


def _no_regression(network: Network, frozen: FrozenPart) -> RecipeError:
    shape = " x ".join(map(str, frozen.train.shape))
    return RecipeError(
        f"the end of {network.name} is not one linear layer, with biases, on pooled features",
        given=f"transfer.head = logistic, features of {shape} numbers",
        valid="networks such as resnet18 or mobilenetv2_100",
        fix="take --head own",
    )


def _fit_on(frozen: FrozenPart, trainee: Trainee, recipe: Recipe) -> LogisticFit:
    network = as_network(whole(trainee.module))
    labels_m = torch.cat([batch.labels_b.cpu() for batch in trainee.val])
    counts_k = torch.bincount(trainee.train.labels_n, minlength=network.num_classes)
    return fit_logistic(
        frozen.train.values.flatten(2),
        trainee.train.labels_n,
        network.num_classes,
        val_features_md=frozen.val.values[:, 0].flatten(1),
        val_labels_m=labels_m,
        class_weights=class_weights(recipe.training, counts_k),
    )


def _row_of(
    fitted: LogisticFit, trainee: Trainee, frozen: FrozenPart, epoch: int, started: float
) -> EpochRow:
    """The figures of a logistic head."""
    chosen = next(row for row in fitted.table if row.strength == fitted.strength)
    views_nvd, labels_n = frozen.train.values.flatten(2), trainee.train.labels_n
    said_m = fitted.logits(views_nvd.flatten(0, 1)).argmax(1)
    right_m = said_m == labels_n.repeat_interleave(views_nvd.shape[1])
    return EpochRow(
        epoch=epoch,
        train_loss=chosen.train_loss,
        train_accuracy=float(right_m.float().mean()),
        val_loss=chosen.val_loss,
        val_accuracy=chosen.val_accuracy,
        lr=0.0,
        seconds=time.perf_counter() - started,
    )


def _train_head(trainee: Trainee, recipe: Recipe, runtime: Runtime) -> EpochRow:
    """A few epochs over features: the best one, whose weights stay."""
    epochs = replace(recipe, training=replace(recipe.training, epochs=HEAD_FIRST_EPOCHS))
    num_train = len(trainee.train.labels_n)
    # A head of one layer would have been fitted by regression.
    lr = usual_lr(epochs, has_norm=True, num_train=num_train, has_linear_head=False)
    epochs = replace(epochs, optimizer=replace(recipe.optimizer, lr=lr))
    best: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, row: EpochRow, is_best: bool) -> None:
        if is_best:
            best.update({k: v.clone() for k, v in whole(module).state_dict().items()})

    result = fit(trainee.module, trainee.train, trainee.val, epochs, runtime, Silent(), keep)
    whole(trainee.module).load_state_dict(best)
    assert result.best is not None
    return result.best
