"""Frozen is said in stages and means frozen: no gradient, no drift of the batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fieldmark.errors import FieldmarkError, RecipeError
from fieldmark.models.registry import create_model
from fieldmark.recipe import Recipe
from fieldmark.training.freeze import freeze, frozen_stages, train_mode


def meta_model(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=3)


def recipe_for(mode: str, through: str = "") -> Recipe:
    return Recipe().with_settings({"mode": mode, "training.freeze_through": through})


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "alexnet"])
def test_frozen_leaves_only_the_head_to_train(name: str) -> None:
    model = meta_model(name)
    stages = frozen_stages(model, recipe_for("frozen"))  # type: ignore[arg-type]
    freeze(model, stages)  # type: ignore[arg-type]
    trained = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
    head = "fc." if name == "resnet18" else "classifier."
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(head)}


def test_partial_freezes_from_the_input_through_the_named_stage() -> None:
    model = meta_model("resnet18")
    stages = frozen_stages(model, recipe_for("partial", "layer2"))  # type: ignore[arg-type]
    assert stages == ("stem", "layer1", "layer2")
    freeze(model, stages)  # type: ignore[arg-type]
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4", "fc"}


@pytest.mark.parametrize("mode", ["scratch", "finetune"])
def test_nothing_is_frozen_otherwise(mode: str) -> None:
    assert frozen_stages(meta_model("resnet18"), recipe_for(mode)) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["layer9", "head", "Layer2"])
def test_a_wrong_stage_is_answered_with_the_networks_own(wrong: str) -> None:
    with pytest.raises(RecipeError) as caught:
        frozen_stages(meta_model("resnet18"), recipe_for("partial", wrong))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "stage of resnet18 to freeze through" in message
    assert f"given:  '{wrong}'" in message
    assert "valid:  stem, layer1, layer2, layer3, layer4\n" in message  # head cannot be frozen
    if wrong == "Layer2":
        assert "did you mean 'layer2'?" in message


def test_partial_without_a_stage_is_refused_with_the_way_out() -> None:
    with pytest.raises(FieldmarkError, match=r"training\.freeze_through=layer2"):
        recipe_for("partial")


def test_train_mode_keeps_frozen_stages_in_evaluation_mode() -> None:
    model = meta_model("resnet18").eval()
    train_mode(model, model, ("stem", "layer1"))  # type: ignore[arg-type]
    modes = {name: module.training for name, module in model.named_modules()}
    assert not any(
        mode for name, mode in modes.items() if name.split(".")[0] in ("conv1", "bn1", "layer1")
    )
    assert all(mode for n, mode in modes.items() if n.startswith(("layer2", "layer4", "fc")))
