"""Frozen is said in stages and means frozen: no gradient, no drift of the batch norm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fieldmark.errors import FieldmarkError, RecipeError, TrainingError
from fieldmark.models.registry import create_model
from fieldmark.recipe import Recipe
from fieldmark.training.freeze import (
    begin_epoch,
    check_unchanged,
    fingerprints,
    freeze,
    frozen_stages,
    resting_stages,
    train_mode,
    unfreezing_line,
)


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


@pytest.mark.parametrize("wrong", ["layer9", "Layer2"])
def test_a_wrong_stage_is_answered_with_the_networks_own(wrong: str) -> None:
    with pytest.raises(RecipeError) as caught:
        frozen_stages(meta_model("resnet18"), recipe_for("partial", wrong))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "stage of resnet18 to freeze through" in message
    assert f"given:  '{wrong}'" in message
    assert "valid:  stem, layer1, layer2, layer3, layer4\n" in message  # head cannot be frozen
    if wrong == "Layer2":
        assert "did you mean 'layer2'?" in message


def test_a_head_that_is_frozen_too_leaves_nothing() -> None:
    with pytest.raises(RecipeError, match="nothing of the network would train") as caught:
        frozen_stages(meta_model("resnet18"), recipe_for("partial", "head"))  # type: ignore[arg-type]
    assert "valid:  stem, layer1, layer2, layer3, layer4\n" in str(caught.value)
    assert "--mode frozen" in str(caught.value)


def test_partial_without_a_stage_is_refused_with_the_way_out() -> None:
    with pytest.raises(FieldmarkError, match="--freeze-through STAGE"):
        recipe_for("partial")


def test_train_mode_keeps_frozen_stages_in_evaluation_mode() -> None:
    model = meta_model("resnet18").eval()
    train_mode(model, model, ("stem", "layer1"))  # type: ignore[arg-type]
    modes = {name: module.training for name, module in model.named_modules()}
    assert not any(
        mode for name, mode in modes.items() if name.split(".")[0] in ("conv1", "bn1", "layer1")
    )
    assert all(mode for n, mode in modes.items() if n.startswith(("layer2", "layer4", "fc")))


def test_batch_norm_can_keep_its_statistics_while_everything_else_trains() -> None:
    model = meta_model("resnet18").eval()
    train_mode(model, model, ("stem",), "eval")  # type: ignore[arg-type]
    for name, module in model.named_modules():
        still = isinstance(module, nn.BatchNorm2d) or name in ("conv1", "bn1", "relu", "maxpool")
        assert module.training != still, name
    train_mode(model, model, ())  # type: ignore[arg-type]
    assert all(module.training for module in model.modules())


# One stage after the other ------------------------------------------------------------------------


def gradual(mode: str, every: int, through: str = "", epochs: int = 20) -> Recipe:
    return recipe_for(mode, through).with_settings(
        {"transfer.unfreeze_every": every, "training.epochs": epochs}
    )


@pytest.mark.parametrize(
    ("mode", "through", "resting"),
    [
        ("finetune", "", [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0]),
        ("partial", "layer2", [5, 5, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3]),
    ],
)
def test_one_more_stage_trains_after_every_so_many_epochs(
    mode: str, through: str, resting: list[int]
) -> None:
    model = meta_model("resnet18")
    recipe = gradual(mode, 2, through)
    turns = [resting_stages(model, recipe, epoch) for epoch in range(13)]  # type: ignore[arg-type]
    assert [len(stages) for stages in turns] == resting
    assert turns[0] == ("stem", "layer1", "layer2", "layer3", "layer4")


def test_what_trains_in_an_epoch_has_gradients_and_training_mode_and_nothing_else() -> None:
    model = meta_model("resnet18")
    model.bn1.weight.requires_grad_(False)  # type: ignore[union-attr] # as timm has some
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    recipe = gradual("finetune", 1)
    for epoch, tops in enumerate(
        [("fc",), ("fc", "layer4"), ("fc", "layer4", "layer3")],
    ):
        begin_epoch(model, model, recipe, epoch, trained)  # type: ignore[arg-type]
        assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {*tops}
        for name, module in model.named_modules():
            if name.startswith("layer"):
                assert module.training == name.startswith(tops), name
    begin_epoch(model, model, recipe, 9, trained)  # type: ignore[arg-type]
    resting = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert resting == {"bn1.weight"}, "what never trained does not begin to"


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (recipe_for("finetune"), ""),
        (
            gradual("finetune", 3),
            "trains: head, layer4 from epoch 4, layer3 from epoch 7, layer2 from epoch 10, "
            "layer1 from epoch 13, stem from epoch 16",
        ),
        (
            gradual("partial", 3, "layer1", epochs=6),
            "trains: head, layer4 from epoch 4; not in 6 epochs: layer3, layer2",
        ),
    ],
)
def test_it_is_said_which_stage_trains_from_when(recipe: Recipe, line: str) -> None:
    model = meta_model("resnet18")
    assert unfreezing_line(model, recipe) == line  # type: ignore[arg-type]


# Frozen means frozen ------------------------------------------------------------------------------


def ways_to_cheat() -> dict[str, Callable[[nn.Module], object]]:
    return {
        "stem.0.weight": lambda model: model.stem[0].weight.data[1, 2, 0].mul_(1 + 1e-6),
        "stem.0.bias": lambda model: model.stem[0].bias.data.fill_(torch.nan),
        "stem.1.running_mean": lambda model: model.stem[1].running_mean[0].neg_(),  # 0 to -0
        "stem.1.num_batches_tracked": lambda model: model.stem[1].num_batches_tracked.add_(1),
        "body.0.seen": lambda model: model.body[0].seen.add_(1),  # in no state dict
    }


@pytest.mark.parametrize("name", ways_to_cheat())
def test_a_single_bit_below_the_boundary_is_noticed_by_name(
    make_network: Callable[..., nn.Module], name: str
) -> None:
    model = make_network().to(memory_format=torch.channels_last)
    model.body[0].register_buffer("seen", torch.zeros(2, dtype=torch.bfloat16), persistent=False)
    below = ("stem", "body")
    before = fingerprints(model, model, below)  # type: ignore[arg-type]
    assert set(before) == {
        name
        for name, _ in (*model.named_parameters(), *model.named_buffers())
        if name.startswith(below)
    }
    model.head[-1].weight.data.mul_(2)  # may change
    check_unchanged(before, fingerprints(model, model, below))  # type: ignore[arg-type]

    ways_to_cheat()[name](model)
    with pytest.raises(TrainingError, match=f"{name} changed in training, although froz") as caught:
        check_unchanged(before, fingerprints(model, model, below))  # type: ignore[arg-type]
    for words in (f"given:  {len(before)} frozen tensors, 1 changed", "please report it"):
        assert words in str(caught.value)
    check_unchanged(fingerprints(model, model, ()), {})  # type: ignore[arg-type]


def test_several_changes_are_counted_and_a_new_tensor_is_one() -> None:
    with pytest.raises(TrainingError, match="b and 2 more changed in training"):
        check_unchanged({"a": "1", "b": "2", "c": "3"}, {"a": "1", "c": "4", "d": "5"})
    check_unchanged({"a": "1"}, {"a": "1"})
