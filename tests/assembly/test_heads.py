"""Heads on stored features: hidden layers, logistic regression, folds, and a head first."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fieldmark as fm
from fieldmark import api
from fieldmark.assembly import heads
from fieldmark.assembly.heads import fit_logistic_head
from fieldmark.assembly.trainee import prepare_trainee
from fieldmark.errors import RecipeError, TrainingError
from fieldmark.training.logistic import LogisticFit, fit_logistic
from fieldmark.training.loop import fit
from support.transfers import (
    Said,
    keys_below,
    random_weights,
    same_history,
    streaming,
    tensors,
    transfer,
)

pytestmark = pytest.mark.usefixtures("no_drawing")

STILL: dict[str, Any] = {  # nothing moves: what is validated is what the training began with
    "lr": 0.0,
    "optimizer": "sgd",
    "schedule": "constant",
    "epochs": 1,
    "norms": "eval",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    folder: Path = make_pictures(
        tmp_path_factory.mktemp("heads") / "photos", {"ant": 16, "bee": 16, "cow": 16}
    )
    return folder


# A hidden layer -----------------------------------------------------------------------------------


def test_a_hidden_layer_trains_and_is_saved_and_loaded(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words: dict[str, Any] = {"mode": "frozen", "head": "mlp", "hidden": 9, "epochs": 6}
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    losses = [row.train_loss for row in run.history]
    assert losses[-1] < losses[0] - 0.05
    kept = tensors(run.path)
    assert kept["fc.0.weight"].shape == (9, 512)
    assert kept["fc.3.weight"].shape == (3, 9)
    predictor = fm.load(run.path, "cpu")
    assert predictor.info.architecture["options"]["head_hidden"] == 9
    said = predictor.predict(str(photos / "cow" / "000.png"))
    assert sum(said.probabilities) == pytest.approx(1)


# Logistic regression ------------------------------------------------------------------------------


def test_the_saved_logistic_head_is_that_of_scikit_learn(
    photos: Path, tmp_path: Path, tiny_run: fm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    def note_fit(*args: Any) -> Any:
        result, found["fitted"] = fit_logistic_head(*args)
        return result, found["fitted"]

    def note_data(model: Any, data: Any, *args: Any, **words: Any) -> Any:
        found["data"], found["trainee"] = data, prepare_trainee(model, data, *args, **words)
        return found["trainee"]

    monkeypatch.setattr(api, "fit_logistic_head", note_fit)
    monkeypatch.setattr(api, "prepare_trainee", note_data)
    said = Said()
    words = {"mode": "frozen", "head": "logistic", "views": 2, "augment": "standard"}
    run = transfer(photos, tmp_path / "run", tiny_run.path, progress=said, **words)
    fitted, trainee = found["fitted"], found["trainee"]

    views_nvd, labels_n = trainee.frozen.train.values, trainee.train.labels_n
    assert views_nvd.shape[1:] == (2, 512)
    scale = StandardScaler().fit(views_nvd.flatten(0, 1).double().numpy())
    # The penalty of all rows together, of which each picture's two count as one.
    theirs = LogisticRegression(
        C=2 / (fitted.strength * 2 * len(labels_n)), tol=1e-8, max_iter=5000
    )
    weights_r = np.full(2 * len(labels_n), 0.5)
    theirs.fit(
        scale.transform(views_nvd.flatten(0, 1).double().numpy()),
        labels_n.repeat_interleave(2).numpy(),
        sample_weight=weights_r,
    )
    val_md = trainee.frozen.val.values[:, 0].double().numpy()
    wanted = theirs.predict_proba(scale.transform(val_md))
    paths = [sample.path for sample in found["data"].val.samples]
    own = [said.probabilities for said in fm.load(run.path, "cpu").predict(paths)]
    np.testing.assert_allclose(own, wanted, atol=1e-3)

    assert len(run.history) == 1
    assert run.best.val_accuracy == run.val.accuracy.value
    assert "is the best of 10 by validation loss; one answer" in said.line("logistic regression: ")
    rows = (run.path / "history.csv").read_text().splitlines()
    assert len(rows) == 2


@pytest.mark.parametrize("head", ["linear", "logistic"])
@pytest.mark.parametrize(
    ("name", "size", "classifier"),
    [("alexnet_half", 64, "classifier.6."), ("timm/vgg11", 32, "head.fc.")],
)
def test_of_a_longer_head_the_last_layer_trains_alone(
    name: str, size: int, classifier: str, head: str, photos: Path, tmp_path: Path
) -> None:
    """As the VGG write-up's: two dense layers stay as they came, on stored features and without."""
    weights = random_weights(tmp_path / "w.pth", name, classes=3)  # so the last layer comes along
    words = {"model": name, "size": size, "mode": "frozen", "head": head}
    said = Said()
    run = transfer(photos, tmp_path / "run", weights, progress=said, **words)
    num_features = 4096 if name == "timm/vgg11" else 2048
    assert said.line("features: ").startswith(f"features: {num_features} numbers")
    before, after = torch.load(weights, weights_only=True), tensors(run.path)
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {f"{classifier}weight", f"{classifier}bias"}
    if head == "linear":
        with streaming():
            same_history(run, transfer(photos, tmp_path / "whole", weights, **words))


def test_a_logistic_head_is_a_start_for_all_of_a_longer_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[LogisticFit] = []

    def note(*args: Any, **words: Any) -> LogisticFit:
        fits.append(fit_logistic(*args, **words))
        return fits[-1]

    monkeypatch.setattr(heads, "fit_logistic", note)
    weights = random_weights(tmp_path / "w.pth", "alexnet_half")
    words = {"model": "alexnet_half", "size": 64, "mode": "finetune", "lr": 1e-3}
    said = Said()
    run = transfer(photos, tmp_path / "run", weights, head="logistic", progress=said, **words)
    (fitted,) = fits
    losses = {row.strength: row.val_loss for row in fitted.table}
    assert (run.history[0].epoch, run.history[0].val_loss) == (0, losses[fitted.strength])
    assert said.line("features: ").startswith("features: 2048 numbers")


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_logistic_regression_takes_what_a_1x1_convolution_does(
    mode: str, photos: Path, tmp_path: Path
) -> None:
    weights = random_weights(tmp_path / "w.pth", "resnetv2_18")
    said = Said()
    words = {"model": "resnetv2_18", "mode": mode, "head": "logistic", "epochs": 1}
    run = transfer(photos, tmp_path / "run", weights, progress=said, **words)
    assert said.line("features: ").startswith("features: 512 x 1 x 1 numbers")
    assert run.best.val_accuracy == run.val.accuracy.value


def test_a_hidden_layer_that_nobody_trained_does_not_stay(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words = {"mode": "frozen", "head": "linear", "settings": {"model.options.head_hidden": 8}}
    with pytest.raises(RecipeError, match="would stay as it was drawn") as caught:
        transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert "--head mlp" in str(caught.value)
    # Where it came with the weights it is as good as any other.
    first = transfer(photos, tmp_path / "mlp", tiny_run.path, mode="frozen", head="mlp", hidden=8)
    run = transfer(photos, tmp_path / "run", first.path, mode="frozen", head="linear")
    assert torch.equal(tensors(run.path)["fc.0.weight"], tensors(first.path)["fc.0.weight"])
    assert not torch.equal(tensors(run.path)["fc.3.weight"], tensors(first.path)["fc.3.weight"])


@pytest.mark.parametrize("head", ["linear", "logistic"])
def test_a_network_without_a_last_layer_is_refused_before_any_work(
    head: str, photos: Path, tmp_path: Path
) -> None:
    name = "deit_tiny_distilled_patch16_224"
    weights = random_weights(tmp_path / "w.pth", name)
    said = Said()
    words = {"model": name, "size": 224, "mode": "frozen", "head": head}
    with pytest.raises(RecipeError) as caught:
        transfer(photos, tmp_path / "run", weights, progress=said, **words)
    assert f"{name} does not end in one linear layer" in str(caught.value)
    assert f"transfer.head = {head}" in str(caught.value)
    assert "take --head own" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not said.has("looked at")


def test_a_logistic_head_needs_stored_features(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    with streaming(), pytest.raises(RecipeError, match="needs stored features") as caught:
        transfer(photos, tmp_path / "run", tiny_run.path, mode="frozen", head="logistic")
    assert "take --head own" in str(caught.value)


# Folds --------------------------------------------------------------------------------------------


def test_folds_need_stored_features_and_that_is_said_before_any_epoch(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    words = {"mode": "frozen", "folds": 3, "progress": said}
    with streaming(), pytest.raises(RecipeError, match="folds need stored features"):
        transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert not said.has("epoch  ")


def test_folds_take_features_that_are_maps(photos: Path, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "w.pth", "resnetv2_18")
    words = {"model": "resnetv2_18", "mode": "frozen", "folds": 3, "epochs": 1}
    run = transfer(photos, tmp_path / "run", weights, **words)
    rows = (run.path / "out_of_fold.csv").read_text().splitlines()
    num_train = (run.path / "manifest.csv").read_text().count(",train")
    assert len(rows) == 1 + num_train > 20


@pytest.mark.parametrize("words", [{"head": "logistic"}, {"views": 2, "augment": "light"}])
def test_folds_predict_every_training_picture_once(
    words: dict[str, Any], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    grouped = {"group_by": r"(\d)\.png$", "settings": {"data.val_fraction": 0.2}}
    words = {"mode": "frozen", "folds": 3, "epochs": 1, **grouped, **words}
    run = transfer(photos, tmp_path / "run", tiny_run.path, progress=said, **words)
    with (run.path / "out_of_fold.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (run.path / "manifest.csv").open(newline="") as file:
        manifest = {row["path"]: row for row in csv.DictReader(file)}
    train = [path for path, row in manifest.items() if row["split"] == "train"]
    assert sorted(row["path"] for row in rows) == sorted(train)
    assert len(train) > 20
    folds: dict[str, set[str]] = defaultdict(set)
    num_right = 0
    for row in rows:
        shares = {key[2:]: float(row[key]) for key in row if key.startswith("p:")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == manifest[row["path"]]["label"]
        num_right += max(shares, key=lambda name: shares[name]) == row["label"]
        folds[Path(row["path"]).stem[-1]].add(row["fold"])
    assert set.union(*folds.values()) == {"1", "2", "3"}
    assert all(len(of_group) == 1 for of_group in folds.values()), folds
    line = said.line("out of fold (3 folds, logistic regression): accuracy ")
    assert f" {num_right / len(rows):.3f}, " in line
    assert num_right / len(rows) > 0.6  # chance is 0.33


# A head first -------------------------------------------------------------------------------------


def accuracy_said(said: Said) -> float:
    return float(said.line("head first: validation").split("accuracy ")[1].split()[0])


@pytest.mark.parametrize(
    "mode", [{"mode": "finetune"}, {"mode": "partial", "freeze_through": "layer1"}]
)
def test_all_weights_train_on_from_a_head_that_fits(
    mode: dict[str, Any], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said, without = Said(), Said()
    words = {**STILL, **mode}
    run = transfer(
        photos, tmp_path / "with", tiny_run.path, progress=said, head_first=True, **words
    )
    drawn = transfer(
        photos, tmp_path / "without", tiny_run.path, progress=without, head_first=False, **words
    )
    first, random = run.history[1], drawn.history[0]
    assert first.val_accuracy >= 0.75  # chance is 0.33
    assert round(first.val_accuracy, 3) == accuracy_said(said)
    assert not without.has("head first: validation")
    # What was said of it by its features is what the whole network does.
    assert [row.epoch for row in run.history] == [0, 1]
    assert run.history[0].val_accuracy == first.val_accuracy
    assert run.history[0].val_loss == pytest.approx(first.val_loss, rel=1e-3, abs=1e-5)
    assert [row.epoch for row in drawn.history] == [1]
    assert random.val_loss > first.val_loss + 0.1
    # It is the head alone that is another.
    for key in keys_below("resnet10", -1):
        assert torch.equal(tensors(run.path)[key], tensors(tiny_run.path)[key])


def test_what_was_frozen_for_the_head_trains_afterwards(
    photos: Path, tmp_path: Path, tiny_run: fm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: dict[str, torch.Tensor] = {}

    def noting(model: torch.nn.Module, *args: Any) -> Any:
        result = fit(model, *args)
        ended.update(model.state_dict())
        return result

    monkeypatch.setattr(api, "fit", noting)
    words: dict[str, Any] = {"mode": "finetune", "head_first": True, "epochs": 1, "norms": "train"}
    transfer(photos, tmp_path / "run", tiny_run.path, **words)
    before = tensors(tiny_run.path)
    assert before.keys() == ended.keys()
    assert {key for key in before if torch.equal(before[key], ended[key])} == set()


def test_a_longer_head_keeps_its_statistics_where_norms_are_to(
    photos: Path, tmp_path: Path
) -> None:
    """Of efficientvit, whose head has a batch norm; epoch 0 is what its few epochs left."""
    weights = random_weights(tmp_path / "w.pth", "efficientvit_m0")
    words = {"model": "efficientvit_m0", "size": 224, "mode": "finetune", "norms": "eval"}
    words |= {"epochs": 1, "lr": 1e-12}
    run = transfer(photos, tmp_path / "run", weights, **words)
    before, after = torch.load(weights, weights_only=True), tensors(run.path)
    statistics = [key for key in after if key.endswith(("running_mean", "running_var"))]
    assert any(key.startswith("head.") for key in statistics)
    assert all(torch.equal(before[key], after[key]) for key in statistics)


def test_a_training_that_ruins_its_network_leaves_the_head_it_began_with(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    wild = {
        "mode": "finetune",
        "head_first": True,
        "lr": 5.0,
        "optimizer": "sgd",
        "schedule": "constant",
        "epochs": 1,
    }
    smooth = {"training.label_smoothing": 0.5}  # else there is next to nothing left to learn
    with pytest.raises(TrainingError, match="the model of epoch 0 is kept"):
        transfer(photos, tmp_path / "run", tiny_run.path, settings=smooth, **wild)
    before, after = tensors(tiny_run.path), tensors(tmp_path / "run")
    assert all(torch.equal(before[key], after[key]) for key in keys_below("resnet10", -1))
    said = fm.load(tmp_path / "run", "cpu").predict(str(photos / "bee" / "000.png"))
    assert sum(said.probabilities) == pytest.approx(1)


def test_a_longer_head_trains_a_few_epochs_instead(photos: Path, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "w.pth", "alexnet_half")
    said = Said()
    words = {**STILL, "model": "alexnet_half", "size": 64, "mode": "finetune"}
    words["lr"] = 1e-3  # its own, too
    run = transfer(photos, tmp_path / "run", weights, progress=said, **words)
    assert said.has("head first: a head drawn at random would spoil")
    # Its epochs are no epochs of the training, and their best one is what that begins with.
    assert [row.epoch for row in run.history] == [0, 1]
    assert round(run.history[0].val_accuracy, 3) == accuracy_said(said)
    assert run.history[0].val_loss < np.log(3)  # chance


def test_without_stored_features_there_is_no_head_first_and_that_is_said(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    with streaming():
        words = {"mode": "finetune", "head_first": True, "epochs": 1}
        transfer(photos, tmp_path / "run", tiny_run.path, progress=said, **words)
    assert said.has("head first: left out, as the features cannot be stored")
