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


class CrossEntropy(nn.CrossEntropyLoss):
    """torch's, with soft targets that are averaged as labels are.

    torch divides the loss of (b,) labels by the sum of their class weights, but that of (b, k) soft
    targets by b: with class weights, a batch of mixed pictures would count by another measure than
    one that is not mixed. Here the mean is weighted in both,

        sum_bk w_k q_bk (-log p_bk) / sum_bk w_k t_bk

    where t are the targets, q the same after smoothing ((1 - s) t + s / k), w the class weights.
    Of one-hot targets that is, to rounding, what torch gives for their labels.
    """

    def forward(self, logits_bk: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = super().forward(logits_bk, targets)
        if targets.ndim == 1 or self.weight is None:
            return loss
        return loss * len(targets) / (targets * self.weight).sum()


def build_loss(recipe: TrainingRecipe, counts_k: torch.Tensor) -> CrossEntropy:
    """Cross-entropy with the recipe's smoothing and class weights, of labels or soft targets.

    Args:
        counts_k: training pictures of each class; every class has at least one.

    Balanced weights are n / (k * n_class), as scikit-learn's: a rare class counts as much as a
    common one, and the mean weight of a training picture is 1.
    """
    weights_k = None
    if recipe.class_weights == "balanced":
        weights_k = counts_k.sum() / (len(counts_k) * counts_k.float())
    return CrossEntropy(weight=weights_k, label_smoothing=recipe.label_smoothing)
