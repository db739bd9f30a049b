"""What a training trains on: stored features give what the whole network gives, and cost once."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fieldmark as fm
from fieldmark import api
from fieldmark.assembly import beginning, trainee
from fieldmark.checkpoint import load_model
from fieldmark.errors import RecipeError, TrainingError
from fieldmark.progress import Silent
from fieldmark.runtime import open_runtime
from fieldmark.training.features import compute_features
from support.transfers import (
    Said,
    counting,
    in_parts,
    keys_below,
    random_weights,
    same_history,
    streaming,
    tensors,
    transfer,
)

pytestmark = pytest.mark.usefixtures("no_drawing")

PARTS = {part: {"ant": num, "bee": num} for part, num in (("train", 8), ("val", 4), ("test", 4))}
STREAMS = "no scissors: the frozen part runs in every epoch"


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there that another test has computed."""
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    return in_parts(make_pictures, tmp_path_factory.mktemp("photos") / "parts", PARTS)


# The same with the store and without it -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "channels", "words"),
    [
        ("resnet10", "frozen", 3, {}),
        ("resnet10", "partial", 3, {"freeze_through": "layer2"}),
        ("resnet10", "partial", 1, {"freeze_through": "stem"}),
        ("resnet10", "frozen", 1, {"head": "mlp", "hidden": 8, "lr": 0.01}),
        ("alexnet_half", "frozen", 3, {"size": 64}),  # dropout in its head
        ("mobilenetv2_035", "frozen", 3, {}),
        ("mobilenetv2_035", "partial", 1, {"freeze_through": "blocks.3"}),
    ],
)
def test_stored_features_give_the_losses_of_the_whole_network(
    name: str, mode: str, channels: int, words: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    weights = random_weights(tmp_path / "w.pth", name)
    words = {"model": name, "mode": mode, "settings": {"data.channels": channels}, **words}
    if mode == "partial":
        words["head_first"] = False
    stored, streamed = Said(), Said()
    with counting() as shown:
        with_store = transfer(photos, tmp_path / "stored", weights, progress=stored, **words)
    assert stored.line("features: ").endswith("computed once")
    assert set(shown.of) == {"features of train", "features of val", "features of test"}
    with streaming():
        without = transfer(photos, tmp_path / "streamed", weights, progress=streamed, **words)
    assert streamed.has(STREAMS)
    assert not streamed.has("features: ")
    same_history(with_store, without)
    # And the training moved something, so that equal losses mean something.
    losses = [row.train_loss for row in with_store.history]
    assert abs(losses[0] - losses[1]) > 1e-2


def test_grey_pictures_go_into_one_channel_by_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (tmp_path / "grey" / label).mkdir(parents=True)
        for number in range(10):
            pixels = (level + rng.integers(-40, 41, (32, 32))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "grey" / label / f"{number}.png")
    weights = random_weights(tmp_path / "w.pth", "resnet10")
    run = transfer(tmp_path / "grey", tmp_path / "run", weights, mode="frozen")
    with streaming():
        other = transfer(tmp_path / "grey", tmp_path / "streamed", weights, mode="frozen")
    assert run.recipe.data.channels == 1
    same_history(run, other)
    first_conv = torch.load(weights, weights_only=True)["conv1.weight"]
    torch.testing.assert_close(tensors(run.path)["conv1.weight"], first_conv.sum(1, keepdim=True))


def test_features_too_large_for_memory_and_cache_are_streamed_and_that_is_said(
    photos: Path, tmp_path: Path, tiny_run: fm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_no_memory(*args: Any, **words: Any) -> Any:
        return compute_features(*args, **words, memory_bytes=0)

    monkeypatch.setattr(trainee, "compute_features", in_no_memory)
    said = Said()
    words = {"mode": "frozen", "cache": "none"}
    run = transfer(photos, tmp_path / "run", tiny_run.path, progress=said, **words)
    assert said.has(
        "what the frozen part makes of the pictures is too large to be kept: the frozen part runs "
        "in every epoch"
    )
    assert len(run.history) == 2


# Computed once ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_store")
def test_another_head_seed_optimizer_or_name_needs_no_forward_pass(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    words: dict[str, Any] = {"mode": "frozen", "views": 2, "augment": "light"}
    with counting() as shown:
        transfer(photos, tmp_path / "first", tiny_run.path, **words)
    assert shown.of == {"features of train": 16 * 2, "features of val": 8, "features of test": 8}
    others: list[dict[str, Any]] = [
        {"seed": 7},
        {"head": "mlp", "hidden": 8},
        {"head": "logistic"},
        {"optimizer": "sgd", "lr": 0.1, "epochs": 1},
        {"settings": {"data.class_names": ["formica", "apis"]}},
    ]
    for number, other in enumerate(others):
        said = Said()
        with counting() as shown:
            transfer(photos, tmp_path / f"{number}", tiny_run.path, **words, **other, progress=said)
        assert shown.of == {"features of train": 0, "features of val": 0, "features of test": 0}, (
            other
        )
        assert "40 of 40 an earlier run had computed" in said.line("features: ")


@pytest.mark.usefixtures("own_store")
def test_other_weights_another_boundary_or_other_pixels_are_computed_anew(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    transfer(photos, tmp_path / "first", tiny_run.path, mode="frozen")
    others: list[dict[str, Any]] = [
        {"weights": random_weights(tmp_path / "w.pth", "resnet10")},
        {"mode": "partial", "freeze_through": "layer3", "head_first": False},
        {"size": 40},
        {"settings": {"data.resize": "squash", "data.mean": [0.1, 0.2, 0.3]}},
    ]
    for number, other in enumerate(others):
        words = {"mode": "frozen", "weights": tiny_run.path, "epochs": 1, **other}
        with counting() as shown:
            transfer(photos, tmp_path / f"{number}", **words)
        assert shown.of == {"features of train": 16, "features of val": 8, "features of test": 8}, (
            other
        )


@pytest.mark.usefixtures("own_store")
def test_one_more_picture_costs_itself(photos: Path, tmp_path: Path, tiny_run: fm.Run) -> None:
    words: dict[str, Any] = {"mode": "frozen", "views": 3, "augment": "light"}
    source = shutil.copytree(photos, tmp_path / "more")
    transfer(source, tmp_path / "first", tiny_run.path, **words)
    pixels = np.random.default_rng(5).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(source / "train" / "ant" / "more.png")
    with counting() as shown:
        transfer(source, tmp_path / "second", tiny_run.path, **words)
    assert shown.of == {"features of train": 3, "features of val": 0, "features of test": 0}


@pytest.mark.usefixtures("own_store")
def test_a_run_that_is_stopped_while_features_are_computed_leaves_them_to_the_next(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    words: dict[str, Any] = {"mode": "frozen", "batch_size": 4}
    with counting(stop_after=12) as shown, pytest.raises(KeyboardInterrupt):
        transfer(photos, tmp_path / "first", tiny_run.path, progress=said, **words)
    assert shown.total == 12
    assert said.lines[-1] == f"no epoch was finished: {tmp_path / 'first'} holds no model"
    assert not (tmp_path / "first" / "model.safetensors").exists()
    with counting() as shown:
        run = transfer(photos, tmp_path / "second", tiny_run.path, progress=said, **words)
    assert shown.of == {"features of train": 4, "features of val": 8, "features of test": 8}
    assert said.line("features: ").endswith("; 12 of 24 an earlier run had computed")
    # As if nothing had happened.
    with streaming():
        whole = transfer(photos, tmp_path / "whole", tiny_run.path, **words)
    same_history(run, whole)


# Frozen means frozen, and the whole network is kept -----------------------------------------------


@pytest.mark.parametrize(
    ("mode", "stages", "words"),
    [
        ("frozen", -1, {}),
        ("frozen", -1, {"settings": {"training.ema_decay": 0.9}}),
        ("frozen", -1, {"head": "logistic"}),
        ("partial", 3, {}),
        ("partial", 3, {"settings": {"training.ema_decay": 0.9}}),
    ],
)
def test_below_the_boundary_the_saved_model_is_what_it_started_from(
    mode: str, stages: int, words: dict[str, Any], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    if mode == "partial":
        words = {"freeze_through": "layer2", "head_first": False, "norms": "train", **words}
    run = transfer(photos, tmp_path / "run", tiny_run.path, mode=mode, **words)
    before, after = tensors(tiny_run.path), tensors(run.path)
    below = keys_below("resnet10", stages)
    assert any("running_mean" in key for key in below)
    assert before.keys() == after.keys()  # no `network.`, nothing left out
    assert {key for key in below if not torch.equal(before[key], after[key])} == set()
    above = {key for key in before.keys() - below if before[key].is_floating_point()}
    assert {key for key in above if not torch.equal(before[key], after[key])} == above


@pytest.mark.parametrize("words", [{}, {"mode": "partial", "freeze_through": "blocks.2"}])
def test_a_timm_network_stays_what_it_was_below_the_boundary(
    words: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    weights = random_weights(tmp_path / "w.pth", "mobilenetv2_035")
    words = {"mode": "frozen", "model": "mobilenetv2_035", **words}
    run = transfer(photos, tmp_path / "run", weights, **words)
    before, after = torch.load(weights, weights_only=True), tensors(run.path)
    below = keys_below("mobilenetv2_035", -1 if words["mode"] == "frozen" else 4)
    assert len(below) > 20
    assert before.keys() == after.keys()
    assert {key for key in below if not torch.equal(before[key], after[key])} == set()


@pytest.mark.parametrize(
    "words",
    [{"mode": "frozen", "head": "mlp", "hidden": 8}, {"mode": "partial", "freeze_through": "stem"}],
)
def test_the_saved_file_is_the_model_that_was_judged(
    words: dict[str, Any], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert run.test is not None
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    predictor = fm.load(run.path, "cpu")
    for row, said in zip(rows, predictor.predict([row["path"] for row in rows]), strict=True):
        own = [float(row[key]) for key in row if key.startswith("p:")]
        assert own == pytest.approx(said.probabilities, abs=1e-5)
    again = fm.evaluate(run.path, device="cpu", progress=Silent())
    assert again.metrics.accuracy == run.test.accuracy
    # Validated on features, judged on pictures: the same.
    assert run.val.accuracy.value == run.best.val_accuracy
    # And it is weights for another training.
    next_one = transfer(photos, tmp_path / "next", run.path, mode="frozen", epochs=1)
    same = keys_below("resnet10", -1)
    one, other = tensors(run.path), tensors(next_one.path)
    assert all(torch.equal(one[key], other[key]) for key in same)


def test_before_work_is_said_only_where_there_is_work(
    photos: Path, tmp_path: Path, tiny_run: fm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []
    prepare: Callable[..., Any] = trainee.prepare_trainee

    def watched(*args: Any, before_work: Callable[[bool], None] | None = None) -> Any:
        return prepare(*args, before_work=called.append)

    monkeypatch.setattr("fieldmark.api.prepare_trainee", watched)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    transfer(photos, tmp_path / "1", tiny_run.path, mode="frozen", epochs=1)
    assert called == [True]
    transfer(photos, tmp_path / "2", tiny_run.path, mode="frozen", epochs=1, seed=3)
    assert called == [True]
    transfer(photos, tmp_path / "3", tiny_run.path, mode="frozen", epochs=1, cache="none")
    assert called == [True, True]
    with streaming():  # its epochs are work, too
        transfer(photos, tmp_path / "4", tiny_run.path, mode="frozen", epochs=1)
    assert called == [True, True, False]


def test_a_stage_that_there_is_not_is_no_reason_to_stream(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    with pytest.raises(RecipeError, match="layer2"):
        transfer(photos, tmp_path / "run", tiny_run.path, mode="partial", freeze_through="layer22")
    assert not (tmp_path / "run").exists()


# The file that was kept ---------------------------------------------------------------------------


def test_a_kept_file_whose_frozen_part_is_another_is_found_out(
    photos: Path, tmp_path: Path, tiny_run: fm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(file: Path) -> Any:
        model, info = load_model(file)
        with torch.no_grad():
            next(model.parameters())[0, 0, 0, 0] += 1e-7
        return model, info

    monkeypatch.setattr(api, "load_model", spoil)
    with pytest.raises(TrainingError, match="changed in training, although frozen"):
        transfer(photos, tmp_path / "run", tiny_run.path, mode="frozen")


@pytest.mark.usefixtures("own_store")
def test_features_are_in_16_bits_for_those_alone_who_ask_for_it(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    """Then the kept model is judged on pictures, in float32."""
    makers: list[trainee.FeatureMaker] = []
    make = trainee.feature_maker

    def note(*args: Any) -> trainee.FeatureMaker:
        makers.append(make(*args))
        return makers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainee, "feature_maker", note)
        half = open_runtime("cpu", "bfloat16")
        patch.setattr(beginning, "open_runtime", lambda *_: half)
        for precision, wanted in (("auto", None), ("bfloat16", torch.bfloat16)):
            with counting() as shown:
                words = {"mode": "frozen", "epochs": 1, "settings": {"precision": precision}}
                transfer(photos, tmp_path / precision, tiny_run.path, **words)
            assert makers[-1].runtime.half is wanted
            assert ("features of test" in shown.of) == (wanted is None)
