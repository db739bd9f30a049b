"""Optimizers and the loss, built from a recipe. torch's own, with the right parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fieldmark.models.contract import Network
from fieldmark.recipe import OptimizerRecipe, TrainingRecipe


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    recipe: OptimizerRecipe,
    lr: float,
    lr_scales: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer over all parameters that train.

    Weight decay is kept off biases and norms, that is off everything with fewer than two
    dimensions: shrinking those regularises nothing (He et al. 2019, "Bag of Tricks", sec. 3.1).

    Args:
        lr: of a parameter whose scale is 1.
        lr_scales: share of that learning rate that a parameter trains with; 1 where it is not
            named. Each group carries its own as `lr_scale`, for whoever moves the learning rate.
    """
    decay = recipe.weight_decay
    assert not isinstance(decay, str), "the recipe was not settled"
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    scale_of = [(lr_scales or {}).get(parameter, 1.0) for parameter in trained]
    groups: list[dict[str, Any]] = []
    for scale in sorted(set(scale_of), reverse=True):
        alike = [p for p, own in zip(trained, scale_of, strict=True) if own == scale]
        common = {"lr": lr * scale, "lr_scale": scale}
        groups += [
            {"params": [p for p in alike if p.ndim >= 2], "weight_decay": decay, **common},
            {"params": [p for p in alike if p.ndim < 2], "weight_decay": 0.0, **common},
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


def stage_lr_scales(network: Network, decay: float) -> dict[nn.Parameter, float]:
    """What share of the learning rate each parameter trains with: decay ** k, k stages below the
    head.

    Discriminative fine-tuning (Howard & Ruder 2018, "Universal Language Model Fine-tuning", sec.
    3.2, with 1 / 2.6 a layer): early stages are more general, and so are changed less.
    """
    modules = network.stage_modules()
    return {
        parameter: decay**below
        for below, stage in enumerate(reversed(network.stages))
        for module in modules[stage]
        for parameter in module.parameters()
    }


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
    """
    weights_k = class_weights(recipe, counts_k)
    return CrossEntropy(weight=weights_k, label_smoothing=recipe.label_smoothing)


def class_weights(recipe: TrainingRecipe, counts_k: torch.Tensor) -> torch.Tensor | None:
    """(k,) what a picture of each class counts; None where all count alike.

    Balanced weights are n / (k * n_class), as scikit-learn's: a rare class counts as much as a
    common one, and the mean weight of a training picture is 1.
    """
    if recipe.class_weights == "none":
        return None
    return counts_k.sum() / (len(counts_k) * counts_k.float())
