"""Trainings of a network that is trained already, from the first word to the saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fieldmark as fm
from fieldmark.checkpoint import load_model
from fieldmark.models.contract import as_network
from fieldmark.models.registry import create_model
from support.transfers import Said, keys_below, random_weights, tensors, transfer

pytestmark = pytest.mark.usefixtures("no_drawing")

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    folder: Path = make_pictures(
        tmp_path_factory.mktemp("transfer") / "photos", {"ant": 10, "bee": 10}
    )
    return folder


def keys_of_stages() -> dict[str, set[str]]:
    assert as_network(create_model("resnet10", 3)).stages == STAGES
    below = [keys_below("resnet10", number) for number in range(len(STAGES))]
    below.append(set(create_model("resnet10", 3).state_dict()))
    return {stage: below[i + 1] - below[i] for i, stage in enumerate(STAGES)}


def moved_stages(before: Path, after: Path) -> set[str]:
    """The stages of which anything is another in the second model."""
    old, new = tensors(before), tensors(after)
    return {
        stage
        for stage, keys in keys_of_stages().items()
        if not all(torch.equal(old[key], new[key]) for key in keys)
    }


def test_a_stage_whose_turn_has_not_come_is_what_it_was(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    words = {"mode": "finetune", "unfreeze_every": 1, "epochs": 3, "head_first": False}
    run = transfer(photos, tmp_path / "run", tiny_run.path, progress=said, **words)
    assert said.line("trains: ") == (
        "trains: head, layer4 from epoch 2, layer3 from epoch 3; not in 3 epochs: layer2, layer1, "
        "stem"
    )
    # The saved model is the best epoch's.
    assert moved_stages(tiny_run.path, run.path) == set(STAGES[-run.best.epoch :])


def test_a_run_that_ends_before_any_turn_has_trained_its_head(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words: dict[str, Any] = {"mode": "finetune", "unfreeze_every": 2, "epochs": 2}
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert moved_stages(tiny_run.path, run.path) == {"head"}


def test_unfreezing_ends_at_the_boundary_of_mode_partial(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words: dict[str, Any] = {"mode": "partial", "freeze_through": "layer3", "epochs": 4}
    said = Said()
    run = transfer(
        photos,
        tmp_path / "run",
        tiny_run.path,
        unfreeze_every=1,
        head_first=False,
        progress=said,
        **words,
    )
    assert said.line("trains: ") == "trains: head, layer4 from epoch 2"
    assert moved_stages(tiny_run.path, run.path) == set(STAGES[-min(run.best.epoch, 2) :])


def test_lower_stages_move_by_their_share_of_the_learning_rate(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    """By plain SGD without decay, so that a step is as long as its learning rate."""
    plain = {
        "mode": "finetune",
        "epochs": 1,
        "batch_size": 32,  # one step
        "optimizer": "sgd",
        "lr": 0.01,
        "schedule": "constant",
        "norms": "eval",
        "head_first": False,
        "settings": {"optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0},
    }
    even = transfer(photos, tmp_path / "even", tiny_run.path, **plain)
    falling = transfer(photos, tmp_path / "falling", tiny_run.path, stage_lr_decay=0.1, **plain)
    before = tensors(tiny_run.path)

    def way(run: fm.Run, stage: str) -> float:
        after = tensors(run.path)
        keys = [key for key in keys_of_stages()[stage] if not key.endswith(STATISTICS)]
        return float(sum((after[k].double() - before[k].double()).square().sum() for k in keys))

    for number, stage in enumerate(reversed(STAGES[1:-1]), start=1):
        share = (way(falling, stage) / way(even, stage)) ** 0.5
        rounding = 0.02 if number < 3 else 0.3  # of float32 beside the weights themselves
        assert share == pytest.approx(0.1**number, rel=rounding), stage
    assert not torch.equal(tensors(falling.path)["conv1.weight"], torch.zeros(1))
    assert torch.equal(tensors(falling.path)["fc.weight"], tensors(even.path)["fc.weight"])


@pytest.mark.parametrize("norms", ["train", "eval"])
@pytest.mark.parametrize(
    "mode", [{"mode": "finetune"}, {"mode": "partial", "freeze_through": "layer1"}]
)
def test_norms_that_train_keep_their_statistics_if_asked_to(
    norms: str, mode: dict[str, Any], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words = {**mode, "epochs": 1, "norms": norms, "head_first": False}
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    before, after = tensors(tiny_run.path), tensors(run.path)
    above = before.keys() - keys_below("resnet10", 2 if mode["mode"] == "partial" else 0)
    statistics = {key for key in above if key.endswith(STATISTICS)}
    norms_own = {key for key in above if ".bn" in key and key not in statistics}
    changed = {key for key in above if not torch.equal(before[key], after[key])}
    assert (changed & statistics) == (statistics if norms == "train" else set())
    assert norms_own <= changed  # weights and biases train all the same


def test_every_mode_is_the_same_again_with_the_same_seed(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    """Whether features were computed or found changes nothing to the bit."""
    words: dict[str, Any] = {"mode": "partial", "freeze_through": "layer2", "views": 2}
    words["augment"] = "light"
    one = transfer(photos, tmp_path / "one", tiny_run.path, **words)
    other = transfer(photos, tmp_path / "other", tiny_run.path, **words)
    theirs = tensors(other.path)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in tensors(one.path).items())


def test_a_timm_network_is_transferred_by_its_own_groups(photos: Path, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "w.pth", "mobilenetv2_035")
    words: dict[str, Any] = {
        "model": "mobilenetv2_035",
        "mode": "partial",
        "freeze_through": "blocks.4",
        "unfreeze_every": 1,
        "stage_lr_decay": 0.5,
        "norms": "eval",
        "epochs": 2,
    }
    said = Said()
    run = transfer(photos, tmp_path / "run", weights, progress=said, **words)
    model, info = load_model(run.path / "model.safetensors")
    assert said.line("trains: ").startswith("trains: head, ")
    assert said.has("head first: validation accuracy ")
    assert info.architecture["name"] == "mobilenetv2_035"
    assert info.history["recipe"]["transfer"]["unfreeze_every"] == 1
    assert as_network(model).num_classes == 2
