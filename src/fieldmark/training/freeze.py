"""Freezing, told in a network's own stages. Frozen means frozen: batch norm too."""

from __future__ import annotations

from torch import nn

from fieldmark.errors import check_choice
from fieldmark.models.contract import Network
from fieldmark.recipe import Recipe


def frozen_stages(network: Network, recipe: Recipe) -> tuple[str, ...]:
    """The stages that do not train in the recipe's mode, input to output.

    Raises:
        RecipeError: `training.freeze_through` is no stage of the network, or is its head.
    """
    if recipe.mode == "frozen":
        return tuple(network.stages[:-1])
    if recipe.mode == "partial":
        last = recipe.training.freeze_through
        check_choice(f"stage of {recipe.model.name} to freeze through", last, network.stages[:-1])
        return tuple(network.stages[: network.stages.index(last) + 1])
    return ()


def freeze(network: Network, stages: tuple[str, ...]) -> None:
    """Stop gradients into these stages."""
    modules = network.stage_modules()
    for stage in stages:
        for module in modules[stage]:
            module.requires_grad_(False)


def train_mode(model: nn.Module, network: Network, stages: tuple[str, ...]) -> None:
    """Put `model` (the same object as `network`) in training mode but for its frozen stages,
    whose batch norm would otherwise drift."""
    model.train()
    modules = network.stage_modules()
    for stage in stages:
        for module in modules[stage]:
            module.eval()
