"""Who decays and who does not, by name; the loss against scikit-learn and against the formula."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fieldmark.models.registry import create_model
from fieldmark.recipe import OptimizerRecipe, TrainingRecipe
from fieldmark.training.optim import build_loss, build_optimizer, stage_lr_scales

PLAIN = OptimizerRecipe("adamw", weight_decay=0.01)


def meta_model(name: str) -> nn.Module:
    with torch.device("meta"):  # names and shapes are all that is asked for
        return create_model(name, num_classes=5)


def names_by_decay(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[float, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["weight_decay"]: [names[id(parameter)] for parameter in group["params"]]
        for group in optimizer.param_groups
    }


@pytest.mark.parametrize("model_name", ["resnet18", "vgg16_bn", "alexnet"])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adam", "adamw"])
def test_weights_of_convolutions_and_dense_layers_decay_and_nothing_else(
    model_name: str, optimizer_name: str
) -> None:
    model = meta_model(model_name)
    recipe = OptimizerRecipe(optimizer_name, weight_decay=0.05)  # type: ignore[arg-type]
    groups = names_by_decay(model, build_optimizer(model.parameters(), recipe, lr=0.1))
    decaying = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert set(groups) == {0.05, 0.0}
    assert set(groups[0.05]) == decaying
    assert set(groups[0.0]) == {name for name, _ in model.named_parameters()} - decaying


def test_every_parameter_that_trains_is_in_one_group_and_no_frozen_one_in_any() -> None:
    model = meta_model("resnet18")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4", "fc")))
    optimizer = build_optimizer(model.parameters(), PLAIN, lr=0.1)
    seen = list(itertools.chain.from_iterable(names_by_decay(model, optimizer).values()))
    trained = [n for n, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(seen) == sorted(trained)  # as lists: a name twice would show
    assert all(name.startswith(("layer4", "fc")) for name in seen)


def test_a_network_without_one_kind_of_parameter_has_one_group() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2, bias=False).parameters(), PLAIN, 0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


@pytest.mark.parametrize("model_name", ["resnet18", "vgg16_bn"])
def test_a_stage_trains_with_its_share_and_its_norms_never_decay(model_name: str) -> None:
    model = meta_model(model_name)
    scales = stage_lr_scales(model, 0.5)  # type: ignore[arg-type]
    optimizer = build_optimizer(model.parameters(), PLAIN, 0.1, scales)
    stages = model.stage_modules()  # type: ignore[operator]
    below_head = {
        id(parameter): len(stages) - 1 - place
        for place, modules in enumerate(stages.values())
        for module in modules
        for parameter in module.parameters()
    }
    seen = 0
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.1 * group["lr_scale"])
        for parameter in group["params"]:
            assert group["lr_scale"] == 0.5 ** below_head[id(parameter)]
            assert group["weight_decay"] == (0.01 if parameter.ndim >= 2 else 0.0)
            seen += 1
    assert seen == len(list(model.parameters()))
    assert optimizer.param_groups[0]["lr_scale"] == 1.0  # the head
    assert {group["lr_scale"] for group in optimizer.param_groups} == {
        0.5**below for below in set(below_head.values())
    }


def test_without_decay_by_stage_there_are_the_same_two_groups_as_ever() -> None:
    """Same parameters in the same order, so that a run is what it was, to the bit."""
    model = meta_model("resnet18")
    scales = stage_lr_scales(model, 1.0)  # type: ignore[arg-type]
    for optimizer in (
        build_optimizer(model.parameters(), PLAIN, 0.1, scales),
        build_optimizer(model.parameters(), PLAIN, 0.1),
    ):
        weights, rest = optimizer.param_groups
        parameters = list(model.parameters())
        assert [id(p) for p in weights["params"]] == [id(p) for p in parameters if p.ndim >= 2]
        assert [id(p) for p in rest["params"]] == [id(p) for p in parameters if p.ndim < 2]
        assert weights["lr_scale"] == rest["lr_scale"] == 1.0
        assert weights["lr"] == rest["lr"] == 0.1


def test_the_recipes_words_reach_the_optimizer() -> None:
    parameters = list(nn.Linear(3, 2).parameters())
    sgd = build_optimizer(parameters, replace(PLAIN, name="sgd", momentum=0.8, nesterov=True), 0.4)
    assert isinstance(sgd, torch.optim.SGD)
    for group in sgd.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.4, 0.8, True)
    adam = build_optimizer(parameters, replace(PLAIN, name="adam", betas=(0.8, 0.95)), 0.002)
    adamw = build_optimizer(parameters, replace(PLAIN, betas=(0.7, 0.9)), 0.003)
    # torch's AdamW is itself an Adam, with its decay apart from the gradient.
    assert [adam.param_groups[0]["decoupled_weight_decay"], type(adam)] == [False, torch.optim.Adam]
    assert [adamw.param_groups[0]["decoupled_weight_decay"], type(adamw)] == [
        True,
        torch.optim.AdamW,
    ]
    assert [adam.param_groups[0]["betas"], adam.param_groups[0]["lr"]] == [(0.8, 0.95), 0.002]
    assert [adamw.param_groups[0]["betas"], adamw.param_groups[0]["lr"]] == [(0.7, 0.9), 0.003]


def test_without_gradients_decay_shrinks_weights_and_leaves_biases_alone() -> None:
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    recipe = OptimizerRecipe("sgd", momentum=0.0, weight_decay=0.1)
    optimizer = build_optimizer(layer.parameters(), recipe, lr=0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.5 * 0.1))
    assert torch.equal(layer.bias.detach(), bias)


def test_balanced_class_weights_are_scikit_learns() -> None:
    labels = np.repeat(np.arange(4), [50, 3, 17, 1])
    loss = build_loss(
        TrainingRecipe(class_weights="balanced"), torch.bincount(torch.from_numpy(labels))
    )
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert loss.weight is not None
    np.testing.assert_allclose(loss.weight.numpy(), expected, rtol=1e-6)
    assert loss.weight[torch.from_numpy(labels)].mean().item() == pytest.approx(1)


def test_no_class_weights_unless_asked_for() -> None:
    assert build_loss(TrainingRecipe(), torch.tensor([9, 1])).weight is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_spreads_its_share_over_all_classes(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_bk = torch.randn(6, 5, generator=generator)
    labels_b = torch.tensor([0, 1, 2, 3, 4, 4])
    target_bk = torch.full((6, 5), smoothing / 5)
    target_bk[torch.arange(6), labels_b] += 1 - smoothing
    by_hand = -(target_bk * logits_bk.log_softmax(1)).sum(1).mean()
    loss = build_loss(TrainingRecipe(label_smoothing=smoothing), torch.ones(5))
    torch.testing.assert_close(loss(logits_bk, labels_b), by_hand)


def soft_example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, soft targets, and how many pictures each class has."""
    generator = torch.Generator().manual_seed(1)
    logits_bk = torch.randn(5, 4, generator=generator)
    own, partner = torch.tensor([0, 3, 3, 1, 2]), torch.tensor([2, 0, 3, 3, 1])
    targets_bk = 0.7 * F.one_hot(own, 4) + 0.3 * F.one_hot(partner, 4)
    return logits_bk, targets_bk, torch.tensor([50, 3, 17, 9])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_soft_targets_with_weights_and_smoothing_by_hand(
    smoothing: float, class_weights: Any
) -> None:
    logits_bk, targets_bk, counts_k = soft_example()
    recipe = TrainingRecipe(label_smoothing=smoothing, class_weights=class_weights)
    loss = build_loss(recipe, counts_k)(logits_bk, targets_bk).item()
    weights = [79 / (4 * count) for count in counts_k.tolist()]
    if class_weights == "none":
        weights = [1.0] * 4
    above = below = 0.0
    for logits, targets in zip(logits_bk.tolist(), targets_bk.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        for weight, logit, target in zip(weights, logits, targets, strict=True):
            smoothed = (1 - smoothing) * target + smoothing / 4
            above += weight * smoothed * (log_sum - logit)
            below += weight * target
    assert loss == pytest.approx(above / below, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_a_batch_counts_the_same_whether_its_labels_come_hard_or_soft(
    smoothing: float, class_weights: Any
) -> None:
    """torch alone would divide the one by the sum of the weights, the other by the pictures."""
    logits_bk, targets_bk, counts_k = soft_example()
    labels_b = targets_bk.argmax(1)
    recipe = TrainingRecipe(label_smoothing=smoothing, class_weights=class_weights)
    loss = build_loss(recipe, counts_k)
    hard = loss(logits_bk, labels_b)
    torch.testing.assert_close(loss(logits_bk, F.one_hot(labels_b, 4).float()), hard)
    torch_alone = nn.CrossEntropyLoss(loss.weight, label_smoothing=smoothing)
    torch.testing.assert_close(hard, torch_alone(logits_bk, labels_b))


def test_the_weighting_of_soft_targets_is_computed_in_full_precision_under_autocast() -> None:
    logits_bk, targets_bk, counts_k = soft_example()
    loss = build_loss(TrainingRecipe(class_weights="balanced"), counts_k)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(logits_bk, targets_bk)
    torch.testing.assert_close(mixed, loss(logits_bk, targets_bk))
