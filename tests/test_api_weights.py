"""Trainings that start from a model's weights, and evaluations under the source's own names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import fieldmark as fm
from fieldmark.api import Run
from fieldmark.assembly.network import settle_for
from fieldmark.auto import LEARNING_RATES
from fieldmark.data.manifest import Manifest
from fieldmark.errors import ModelError, OutputError, RecipeError, SourceError
from fieldmark.progress import Silent
from fieldmark.recipe import assemble
from fieldmark.runtime import Runtime
from fieldmark.types import Sample

pytestmark = pytest.mark.usefixtures("no_drawing")


def train(source: Any, out: Path, **words: Any) -> Run:
    quick = {"model": "resnet10", "size": 32, "epochs": 1, "batch_size": 8, "device": "cpu"}
    return fm.train(source, out=out, **{"progress": Silent(), **quick, **words})


@pytest.fixture
def three(tmp_path: Path, make_pictures: Any) -> Path:
    folder: Path = make_pictures(tmp_path / "three", {"ant": 10, "bee": 10, "wasp": 10}, size=32)
    return folder


def test_weights_alone_mean_fine_tuning_with_their_preprocess(three: Path, tmp_path: Path) -> None:
    words = {"data.resize": "squash", "data.interpolation": "bicubic"}
    first = train(three, tmp_path / "first", settings=words)
    assert (first.recipe.mode, first.recipe.optimizer.lr) == ("scratch", 1e-3)
    second = train(three, tmp_path / "second", weights=str(first.path))
    assert second.recipe.mode == "finetune"
    assert second.recipe.optimizer.lr == LEARNING_RATES["adam", "finetune"]
    assert second.load("cpu").info.preprocess == first.load("cpu").info.preprocess
    assert (second.recipe.data.resize, second.recipe.data.interpolation) == ("squash", "bicubic")


def test_weights_and_scratch_contradict_each_other(three: Path, tmp_path: Path) -> None:
    first = train(three, tmp_path / "first")
    with pytest.raises(RecipeError, match="starts from random weights, and others are named"):
        train(three, tmp_path / "second", weights=str(first.path), mode="scratch")
    assert not (tmp_path / "second").exists()


def test_what_is_sure_to_be_refused_is_refused_before_a_picture_is_opened(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_scan(*args: Any, **words: Any) -> None:
        raise AssertionError("the pictures were looked at")

    monkeypatch.setattr("fieldmark.assembly.pictures.scan", no_scan)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        train(three, tmp_path / "used")
    with pytest.raises(RecipeError, match="starts from trained weights"):
        train(three, tmp_path / "new", mode="frozen")
    with pytest.raises(ModelError, match=r"did you mean 'resnet1[08]'\?"):
        train(three, tmp_path / "new", model="resnet19")
    with pytest.raises(ModelError, match="unknown option of resnet10"):
        train(three, tmp_path / "new", settings={"model.options.norm": True})
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        train(three, tmp_path / "file" / "new")


def test_an_input_in_which_nothing_is_left_of_the_pictures_is_warned_of(tmp_path: Path) -> None:
    def said(size: int, side: int) -> bool:
        samples = tuple(Sample(f"{label}.png", label) for label in ("ant", "bee"))
        manifest = Manifest(samples, ("ant", "bee"), (), (), all_grey=False, typical_side_px=side)
        _, lines = settle_for(assemble(None, {"model": "resnet10", "size": size}, {}), manifest)
        return any(line.startswith(f"WARNING: at size {size} px next to nothing") for line in lines)

    assert said(4, 300)
    assert not said(16, 300)
    assert not said(8, 28)


def test_what_a_network_refuses_leaves_the_directory_free(three: Path, tmp_path: Path) -> None:
    first = train(three, tmp_path / "first")
    with pytest.raises(RecipeError, match="batch norm cannot learn"):
        train(three, tmp_path / "run", batch_size=1)
    with pytest.raises(RecipeError, match="to freeze through"):
        train(
            three,
            tmp_path / "run",
            weights=str(first.path),
            mode="partial",
            settings={"training.freeze_through": "layer9"},
        )
    train(three, tmp_path / "run")  # the same directory, with the words put right


def test_evaluation_renames_classes_by_name_never_by_place(three: Path, tmp_path: Path) -> None:
    run = train(three, tmp_path / "run", settings={"data.class_names": ["A", "B", "C"]})
    assert fm.evaluate(run.path, three, progress=Silent()).metrics.accuracy.n == 30

    two = tmp_path / "two"
    shutil.copytree(three, two)
    shutil.rmtree(two / "ant")
    metrics = fm.evaluate(run.path, two, progress=Silent()).metrics
    assert {c.name: c.num_true for c in metrics.per_class} == {"A": 0, "B": 10, "C": 10}

    foreign = tmp_path / "foreign"
    shutil.copytree(three, foreign)
    (foreign / "wasp").rename(foreign / "hornet")
    with pytest.raises(SourceError, match="classes that the model does not know") as caught:
        fm.evaluate(run.path, foreign, progress=Silent())
    assert "'hornet'" in str(caught.value)


def test_networks_lie_channels_last_where_that_is_sound() -> None:
    """On Apple's GPUs the gradients of batch norm are wrong in that layout in some versions."""
    assert Runtime(torch.device("cpu")).memory_format is torch.channels_last
    assert Runtime(torch.device("cuda")).memory_format is torch.channels_last
    assert Runtime(torch.device("mps")).memory_format is torch.contiguous_format
