"""The model card says what the run wrote down, in Markdown that shows it as it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import fieldmark
from fieldmark.checkpoint import load_info
from fieldmark.errors import CheckpointError
from fieldmark.export.folders import export_weights
from fieldmark.export.model_card import escape, model_card, read_figures
from fieldmark.rundir import RunDirectory

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def run(tiny_run: fieldmark.Run, tmp_path: Path) -> RunDirectory:
    """A copy of what a card is made from."""
    copy = RunDirectory(tmp_path / "run")
    copy.path.mkdir()
    original = RunDirectory(tiny_run.path)
    shutil.copy(original.model, copy.model)
    shutil.copy(original.metrics, copy.metrics)
    return copy


def changed(run: RunDirectory, change: Change) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(run.metrics.read_text())
    change(figures)
    run.metrics.write_text(json.dumps(figures))
    return figures


def card_of(run: RunDirectory) -> str:
    info = load_info(run.model)
    return model_card(info, read_figures(run, info))


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_hub_reads_its_front_matter(run: RunDirectory) -> None:
    text = (export_weights(run.path, "hf") / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data.to_dict()
    assert data == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "fieldmark"],
        "metrics": ["accuracy", "f1"],
    }
    front = text.split("---\n")[1]
    assert yaml.safe_load(front) == data
    assert "license: choose one" in front  # the user's to say


def test_it_has_the_runs_figures(run: RunDirectory) -> None:
    accuracy = {"value": 0.875, "low": 0.5291, "high": 0.9776, "n": 8}
    figures = changed(run, lambda f: f["test"].update(accuracy=accuracy, top5_accuracy=accuracy))
    text = card_of(run)
    shown = section(text, "Figures")
    assert "Accuracy on the test pictures: **87.5% (52.9% to 97.8%)**, with 8 pictures." in shown
    assert "true class among the top five 87.5% (52.9% to 97.8%)" in shown
    assert f"macro F1 {figures['test']['macro_f1']:.3f}" in shown
    assert "would reach 33.3%" in shown
    for row in figures["test"]["per_class"]:
        assert f"| {row['name']} | {row['num_true']} | {row['recall']['value']:.1%} (" in shown
    assert "30 pictures for training, 3 for choosing" in section(text, "The pictures")
    trained = section(text, "How it was trained")
    for line in ("random weights", "2 of 2; kept: epoch 2", "adamw, peak rate 0.001", "| seed | 0"):
        assert line in trained
    assert "Fewer than 20 test pictures were at hand of: cat, dog, owl." in section(text, "Limits")
    assert "short side has 32 px" in section(text, "Preprocessing")


def test_without_a_test_part_it_says_that_validation_chose_the_epoch(run: RunDirectory) -> None:
    changed(run, lambda figures: figures.update(test=None))
    shown = section(card_of(run), "Figures")
    assert "Accuracy on the validation pictures" in shown
    assert "somewhat too good" in shown


def test_a_class_that_no_picture_shows_has_no_share(run: RunDirectory) -> None:
    unseen = {"num_true": 0, "num_predicted": 0, "precision": 0.0, "f1": 0.0}
    changed(run, lambda figures: figures["test"]["per_class"][0].update(unseen))
    assert "| cat | 0 | not known | not known | not known |" in card_of(run)


def test_a_model_file_alone_has_a_card_without_figures(run: RunDirectory) -> None:
    run.metrics.unlink()
    text = card_of(run)
    assert "No figures are known" in section(text, "Figures")
    assert "metrics" not in ModelCard(text).data.to_dict()
    assert "30 pictures for training." in section(text, "The pictures")
    assert "2 planned" in section(text, "How it was trained")
    assert re.search(r"\d %|%\)", section(text, "Figures")) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.pop("test"), "'test'"),
        (lambda f: f["test"].pop("accuracy"), "'accuracy'"),
        (lambda f: f["test"]["accuracy"].update(value="high"), "Unknown format code"),
        (lambda f: f["test"]["per_class"].pop(), "its classes are not the model's"),
        (lambda f: f["pictures"].pop("train"), "'train'"),
        (lambda f: f.update(machine=None), "NoneType"),
    ],
)
def test_figures_that_cannot_be_the_models_are_said(
    run: RunDirectory, change: Change, reason: str
) -> None:
    changed(run, change)
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        export_weights(run.path, "hf")
    assert reason in str(caught.value)
    assert "take it away" in str(caught.value)
    assert not (run.path / "export-hf").exists()
    # Nobody needs figures to hand over weights.
    export_weights(run.path, "timm")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_figures_that_are_no_json_are_said(run: RunDirectory, text: str) -> None:
    run.metrics.write_text(text)
    with pytest.raises(CheckpointError, match="cannot be used"):
        card_of(run)


def test_class_names_are_shown_as_they_are(run: RunDirectory) -> None:
    names = ("ant | emmet", "<b>*bee*</b>", "a_b\n[c](d) `e` $f$")
    info = load_info(run.model)
    info = type(info)(info.architecture, names, info.preprocess, info.history)
    changed(
        run,
        lambda f: [
            row.update(name=name)
            for part in ("test", "val")
            for row, name in zip(f[part]["per_class"], names, strict=True)
        ],
    )
    card = model_card(info, read_figures(run, info))
    rows = [line for line in section(card, "Figures").splitlines() if line.startswith("| ")]
    assert len(rows) == 5
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) == 6  # five cells, whatever the names hold
    assert r"\<b\>\*bee\*\</b\>" in card
    assert r"a\_b \[c\](d) \`e\` \$f\$" in card
    assert escape(" \n") == "(no name)"


@pytest.mark.parametrize(
    ("weights", "shown"),
    [
        ("imagenet", "weights imagenet, mode frozen"),
        ("/home/me/runs/bees", "weights bees, mode frozen"),
        ("https://host/a/b.safetensors?token=secret#sha256=00", "weights b.safetensors,"),
        ("hf:timm/resnet18.a1_in1k", r"weights hf:timm/resnet18.a1\_in1k, mode frozen"),
    ],
)
def test_where_the_weights_came_from_is_said_without_paths_and_tokens(
    run: RunDirectory, weights: str, shown: str
) -> None:
    info = load_info(run.model)
    recipe = {**info.history["recipe"], "mode": "frozen"}
    recipe["model"] = {**recipe["model"], "weights": weights}
    history = {**info.history, "recipe": recipe}
    card = model_card(
        type(info)(info.architecture, info.class_names, info.preprocess, history), None
    )
    assert shown in card
    assert "secret" not in card
    assert "/home/me" not in card


def test_a_recipe_of_another_version_does_not_stop_the_card(run: RunDirectory) -> None:
    info = load_info(run.model)
    for history in ({}, {"recipe": {"optimizer": 3}}):
        bare = type(info)(info.architecture, info.class_names, info.preprocess, history)
        assert "How the model was trained is not known." in model_card(bare, None)
