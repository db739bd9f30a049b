"""Optimizers and the loss, built from a recipe. torch's own, with the right parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fieldmark.recipe import OptimizerRecipe, TrainingRecipe


def build_optimizer(
    parameters: Iterable[nn.Parameter], recipe: OptimizerRecipe, lr: float
) -> torch.optim.Optimizer:
    """The optimizer over all parameters that train.

    Weight decay is kept off biases and norms, that is off everything with fewer than two
    dimensions: shrinking those regularises nothing (He et al. 2019, "Bag of Tricks", sec. 3.1).
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decay = recipe.weight_decay
    assert not isinstance(decay, str), "the recipe was not settled"
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match recipe.name:
        case "sgd":
            return torch.optim.SGD(
                groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.nesterov
            )
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=recipe.betas)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=recipe.betas)


def build_loss(recipe: TrainingRecipe, counts_k: torch.Tensor) -> nn.CrossEntropyLoss:
    """Cross-entropy with the recipe's smoothing and class weights.

    Args:
        counts_k: training pictures of each class; every class has at least one.

    Balanced weights are n / (k * n_class), as scikit-learn's: a rare class counts as much as a
    common one, and the mean weight of a training picture is 1.
    """
    weights_k = None
    if recipe.class_weights == "balanced":
        weights_k = counts_k.sum() / (len(counts_k) * counts_k.float())
    return nn.CrossEntropyLoss(weight=weights_k, label_smoothing=recipe.label_smoothing)
