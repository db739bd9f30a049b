"""Freezing, told in a network's own stages. Frozen means frozen: batch norm and buffers too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from fieldmark.errors import RecipeError, TrainingError, check_choice
from fieldmark.models.contract import Network
from fieldmark.models.heads import parts_of
from fieldmark.ranges import LINEAR_HEADS
from fieldmark.recipe import Recipe


def frozen_stages(network: Network, recipe: Recipe) -> tuple[str, ...]:
    """The stages that never train in the recipe's mode, input to output; with the classifier alone
    on top (`transfer.head` linear or logistic) all `parts_of` the network but the last.

    Raises:
        RecipeError: `training.freeze_through` is no stage of the network, or is its head.
    """
    if recipe.mode == "frozen" and recipe.transfer.head in LINEAR_HEADS:
        return tuple(parts_of(network))[:-1]
    if recipe.mode == "frozen":
        return tuple(network.stages[:-1])
    if recipe.mode == "partial":
        last = recipe.training.freeze_through
        if last == network.stages[-1]:
            raise RecipeError(
                "frozen through its head, nothing of the network would train",
                given=f"training.freeze_through = {last}",
                valid=network.stages[:-1],
                fix="take --mode frozen to train the head alone",
            )
        check_choice(f"stage of {recipe.model.name} to freeze through", last, network.stages[:-1])
        return tuple(network.stages[: network.stages.index(last) + 1])
    return ()


def resting_stages(network: Network, recipe: Recipe, epoch: int) -> tuple[str, ...]:
    """The stages that do not train in this epoch (0-based): the frozen ones, and those whose turn
    is yet to come.

    Gradual unfreezing (Howard & Ruder 2018, "Universal Language Model Fine-tuning", sec. 3.3): the
    head trains alone, and every `transfer.unfreeze_every` epochs one more stage, from the top.
    """
    frozen = frozen_stages(network, recipe)
    every = recipe.transfer.unfreeze_every
    if not every:
        return frozen
    num_training = 1 + epoch // every
    return tuple(network.stages[: max(len(frozen), len(network.stages) - num_training)])


def unfreezing_line(network: Network, recipe: Recipe) -> str:
    """When which stage begins to train, for people; empty where all begin at once."""
    epochs, every = recipe.training.epochs, recipe.transfer.unfreeze_every
    if not every:
        return ""
    later = network.stages[len(frozen_stages(network, recipe)) : -1]
    turns = list(zip(reversed(later), range(every, every * len(later) + 1, every), strict=True))
    begins = [f"{stage} from epoch {turn + 1}" for stage, turn in turns if turn < epochs]
    never = [stage for stage, turn in turns if turn >= epochs]
    line = f"trains: {', '.join([network.stages[-1], *begins])}"
    return line + (f"; not in {epochs} epochs: {', '.join(never)}" if never else "")


def freeze(network: Network, stages: tuple[str, ...]) -> None:
    """Stop gradients into these stages."""
    for module in _modules(network, stages):
        module.requires_grad_(False)


def train_mode(
    model: nn.Module, network: Network, stages: tuple[str, ...], norms: str = "train"
) -> None:
    """Put `model` (the same object as `network`) in training mode but for its frozen stages,
    whose batch norm would otherwise drift.

    Args:
        norms: "eval" has batch norm use its stored statistics, and leave them, in every stage;
            its weights and biases train all the same.
    """
    model.train()
    for module in _modules(network, stages):
        module.eval()
    if norms == "eval":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False  # not eval(): timm's may hold an activation or a drop


def begin_epoch(
    model: nn.Module,
    network: Network,
    recipe: Recipe,
    epoch: int,
    trained: Iterable[nn.Parameter],
) -> None:
    """Put everything that trains in this epoch (0-based) in training mode, and nothing else.

    What rests gets no gradient, and torch's optimizers pass over a parameter without one: neither
    momentum nor weight decay moves it, and its moments begin with its first epoch.

    Args:
        trained: every parameter that the optimizer will train in the end.
    """
    resting = resting_stages(network, recipe, epoch)
    for parameter in trained:
        parameter.requires_grad_(True)
    freeze(network, resting)
    train_mode(model, network, resting, recipe.transfer.norms)


def fingerprints(model: nn.Module, network: Network, stages: tuple[str, ...]) -> dict[str, str]:
    """sha256 of each parameter and each buffer of these stages, by its name in `model`.

    Over the bytes, so that a NaN equals itself and a zero does not equal minus zero.
    """
    return {name: _sha256(t) for name, t in stage_tensors(model, network, stages).items()}


def stage_tensors(
    model: nn.Module, network: Network, stages: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The parameters and buffers of these stages, by their names in `model`."""
    inside = {
        id(tensor)
        for module in _modules(network, stages)
        for tensor in (*module.parameters(), *module.buffers())
    }
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in tensors if id(tensor) in inside}


def check_unchanged(before: dict[str, str], after: dict[str, str]) -> None:
    """Raise TrainingError where what was frozen is not what it was, bit for bit."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise TrainingError(
            f"{changed[0]}{more} changed in training, although frozen",
            given=f"{len(before)} frozen tensors, {len(changed)} changed",
            valid="every frozen weight, statistic and buffer the same to the bit",
            fix="this is a mistake in Fieldmark or in the network, not yours: please report it, "
            "with the run's recipe.toml; do not trust its model",
        )


def _modules(network: Network, stages: tuple[str, ...]) -> list[nn.Module]:
    modules = parts_of(network)
    return [module for stage in stages for module in modules[stage]]


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
