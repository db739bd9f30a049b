"""A training end to end: what it leaves behind, and that every figure can be checked from it.

One run on generated pictures serves most tests; tests/test_api_cases.py trains for the others.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import pkgutil
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

import fieldmark as fm
from fieldmark.api import Run
from fieldmark.data.manifest import read_manifest
from fieldmark.demo import SETTINGS as DEMO_SETTINGS
from fieldmark.progress import Silent
from fieldmark.recipe import load_recipe

SILENT = Silent()
CLASSES = ("ant", "bee", "wasp")


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    counts = {"ant": 20, "bee": 20, "wasp": 12}
    folder: Path = make_pictures(tmp_path_factory.mktemp("source") / "photos", counts, size=36)
    return folder


def train(source: Any, out: Path, **words: Any) -> Run:
    """A training of a second: a small network, small pictures, two epochs."""
    quick = {"model": "resnet10", "size": 32, "epochs": 2, "batch_size": 16, "device": "cpu"}
    return fm.train(source, out=out, **{"progress": SILENT, **quick, **words})


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(photos, tmp_path_factory.mktemp("runs") / "first")


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def history_without_seconds(path: Path) -> list[dict[str, str]]:
    rows = read_rows(path / "history.csv")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    # .equal, not allclose: to the bit
    return ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


def test_no_module_hides_a_name_of_the_package() -> None:
    """Importing `fieldmark.x` puts the module `x` on the package, whatever stood there."""
    for module in pkgutil.walk_packages(fm.__path__, "fieldmark."):
        if module.name != "fieldmark.__main__":
            importlib.import_module(module.name)
    for name in fm.__all__:
        assert not isinstance(getattr(fm, name), ModuleType), name


# What is there ------------------------------------------------------------------------------------


def test_every_promised_file_is_there(run: Run) -> None:
    expected = {
        "recipe.toml",
        "manifest.csv",
        "history.csv",
        "model.safetensors",
        "class_indices.json",
        "contents.csv",
        "metrics.json",
        "predictions.csv",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "curves.png",
        "pictures.png",
        "predictions.png",
    }
    assert {path.name for path in run.path.iterdir()} == expected
    for path in run.path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG"), path


def test_classes_are_numbered_in_their_order(run: Run) -> None:
    indices = json.loads((run.path / "class_indices.json").read_text())
    assert indices == {"0": "ant", "1": "bee", "2": "wasp"}
    assert run.load("cpu").class_names == CLASSES


def test_the_manifest_names_every_picture_once_with_its_part(run: Run, photos: Path) -> None:
    manifest = read_manifest(run.path / "manifest.csv")
    assert sorted(s.path for s in manifest.samples) == sorted(map(str, photos.glob("*/*.png")))
    assert all(Path(sample.path).parent.name == sample.label for sample in manifest.samples)
    parts = {part: manifest.count_by_class(part) for part in ("train", "val", "test")}
    assert parts["val"] == parts["test"] == {"ant": 2, "bee": 2, "wasp": 1}
    assert parts["train"] == {"ant": 16, "bee": 16, "wasp": 10}


def test_the_recipe_on_disk_is_the_one_that_was_settled(run: Run) -> None:
    recipe = load_recipe(run.path / "recipe.toml")
    assert recipe == run.recipe
    assert "auto" not in (recipe.optimizer.lr, recipe.augment.preset, recipe.data.channels)
    assert (recipe.data.size, recipe.training.epochs, recipe.model.name) == (32, 2, "resnet10")


def test_history_on_disk_is_the_history_returned(run: Run) -> None:
    rows = read_rows(run.path / "history.csv")
    assert list(rows[0]) == [
        *("epoch", "train_loss", "train_accuracy"),
        *("val_loss", "val_accuracy", "lr", "seconds"),
    ]
    for row, epoch in zip(rows, run.history, strict=True):
        assert {name: float(value) for name, value in row.items()} == {
            name: getattr(epoch, name) for name in row
        }


# What it says -------------------------------------------------------------------------------------


def test_metrics_have_the_promised_shape(run: Run) -> None:
    metrics = json.loads((run.path / "metrics.json").read_text())
    accuracy = metrics["test"]["accuracy"]
    assert accuracy.keys() == {"value", "low", "high", "n"}
    assert accuracy["n"] == 5
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert run.test is not None
    assert accuracy["value"] == run.test.accuracy.value
    assert [c["name"] for c in metrics["test"]["per_class"]] == list(CLASSES)
    parts = {"train": 42, "val": 5, "test": 5}
    assert metrics["pictures"] == {"found": 52, **parts, "left_out": 0, "not_needed": 0}
    assert metrics["num_epochs"] == 2
    assert metrics["fieldmark"] == fm.__version__


def test_scikit_learn_finds_the_same_figures_in_the_predictions(run: Run) -> None:
    rows = read_rows(run.path / "predictions.csv")
    y_true, y_pred = [row["label"] for row in rows], [row["predicted"] for row in rows]
    metrics = json.loads((run.path / "metrics.json").read_text())["test"]
    assert metrics["accuracy"]["value"] == accuracy_score(y_true, y_pred)
    words: dict[str, Any] = {"labels": CLASSES, "average": None, "zero_division": 0}
    ours = metrics["per_class"]
    assert [c["precision"] for c in ours] == pytest.approx(precision_score(y_true, y_pred, **words))
    assert [c["recall"]["value"] for c in ours] == pytest.approx(
        recall_score(y_true, y_pred, **words)
    )
    assert [c["f1"] for c in ours] == pytest.approx(f1_score(y_true, y_pred, **words))
    with (run.path / "confusion_matrix.csv").open(encoding="utf-8", newline="") as stream:
        _, *table = csv.reader(stream)
    counts = [[int(cell) for cell in row[1:]] for row in table]
    assert counts == confusion_matrix(y_true, y_pred, labels=CLASSES).tolist()
    shares = np.array([[float(row[f"p:{name}"]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert [CLASSES[i] for i in shares.argmax(1)] == y_pred


def test_predictions_are_of_the_test_part_and_nothing_else(run: Run) -> None:
    rows = read_rows(run.path / "predictions.csv")
    test = read_manifest(run.path / "manifest.csv").of_part("test")
    assert [(row["path"], row["label"]) for row in rows] == [(s.path, s.label) for s in test]


def test_the_kept_file_gives_the_predictions_that_were_written(run: Run) -> None:
    rows = read_rows(run.path / "predictions.csv")
    answers = fm.load(run.path, "cpu").predict([row["path"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        written = [float(row[f"p:{name}"]) for name in CLASSES]
        assert answer.probabilities == pytest.approx(written, abs=1e-5)
        assert answer.label == row["predicted"]


def test_the_kept_model_is_that_of_the_best_epoch(run: Run) -> None:
    assert run.best == max(run.history, key=lambda row: (row.val_accuracy, -row.val_loss))
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["best_epoch"]["epoch"] == run.best.epoch
    assert metrics["val"]["accuracy"]["value"] == run.best.val_accuracy
    assert metrics["val"]["loss"] == pytest.approx(run.best.val_loss, abs=1e-6)
    assert fm.load(run.path, "cpu").info.history["epoch"] == run.best.epoch


# Once more ----------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_history_and_weights_to_the_bit(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    again = train(photos, tmp_path / "again")
    assert history_without_seconds(again.path) == history_without_seconds(run.path)
    assert same_weights(again.path, run.path)
    for name in ("predictions.csv", "manifest.csv", "recipe.toml"):
        assert (again.path / name).read_text() == (run.path / name).read_text()


def test_the_recipe_of_a_run_makes_the_run_again(run: Run, tmp_path: Path) -> None:
    again = fm.train(recipe=run.path / "recipe.toml", out=tmp_path / "again", progress=SILENT)
    assert history_without_seconds(again.path) == history_without_seconds(run.path)
    assert same_weights(again.path, run.path)


def test_another_seed_gives_another_run(run: Run, photos: Path, tmp_path: Path) -> None:
    other = train(photos, tmp_path / "other", seed=1)
    assert not same_weights(other.path, run.path)
    assert (other.path / "manifest.csv").read_text() != (run.path / "manifest.csv").read_text()


# Evaluating later ---------------------------------------------------------------------------------


def test_evaluating_the_run_gives_its_test_figures_again(run: Run) -> None:
    evaluation = fm.evaluate(run.path, device="cpu", progress=SILENT)
    assert run.test is not None
    assert evaluation.metrics.accuracy == run.test.accuracy
    assert evaluation.metrics.confusion_kk == run.test.confusion_kk
    assert evaluation.metrics.per_class == run.test.per_class
    assert evaluation.metrics.loss == pytest.approx(run.test.loss, rel=1e-4)
    assert evaluation.path.parent == run.path / "evaluations"
    document = json.loads((evaluation.path / "metrics.json").read_text())
    assert document["test"]["accuracy"]["n"] == 5
    assert read_rows(evaluation.path / "predictions.csv")[0]["path"]


def test_other_pictures_can_be_evaluated_and_warned_of_where_they_were_trained_on(
    run: Run, photos: Path, make_pictures: Any, tmp_path: Path
) -> None:
    fresh = make_pictures(tmp_path / "fresh", {"ant": 2, "wasp": 3}, size=50)
    listener = Listener()
    evaluation = fm.evaluate(run.path, fresh, out=tmp_path / "e", progress=listener, device="cpu")
    assert evaluation.metrics.accuracy.n == 5
    assert evaluation.path == tmp_path / "e"
    assert "WARNING" not in listener.text
    known = Listener()
    seen = fm.evaluate(run.path, photos, out=tmp_path / "k", progress=known, device="cpu")
    assert seen.metrics.accuracy.n == 52
    assert "WARNING: 47 of these 52 pictures were used to train or choose this model" in known.text


def test_contents_are_written_in_the_order_of_the_manifest(run: Run) -> None:
    rows, contents = read_rows(run.path / "manifest.csv"), read_rows(run.path / "contents.csv")
    assert [row["split"] for row in contents] == [row["split"] for row in rows]
    expected = [hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest() for row in rows]
    assert [row["sha256"] for row in contents] == expected


def test_the_same_pictures_in_another_place_are_recognized(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    places = [tmp_path / "copied", Path(shutil.make_archive(str(tmp_path / "all"), "zip", photos))]
    shutil.copytree(photos, places[0])
    for number, place in enumerate(places):
        known = Listener()
        fm.evaluate(run.path, place, out=tmp_path / f"{number}", progress=known, device="cpu")
        assert (
            "WARNING: 47 of these 52 pictures were used to train or choose this model "
            "(47 as the same file in another place)"
        ) in known.text
    # Of these, five were only tested on.
    test = [row["path"] for row in read_rows(run.path / "manifest.csv") if row["split"] == "test"]
    for path in test:
        target = tmp_path / "unseen" / Path(path).parent.name / f"other-{Path(path).name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    unseen = Listener()
    fm.evaluate(run.path, tmp_path / "unseen", out=tmp_path / "u", progress=unseen, device="cpu")
    assert "WARNING" not in unseen.text


def test_a_run_without_contents_compares_paths_and_says_so(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(run.path, older)
    (older / "contents.csv").unlink()
    known = Listener()
    fm.evaluate(older, photos, progress=known, device="cpu")
    assert "WARNING: 47 of these 52 pictures" in known.text
    assert "copies of them, or the same ones in another place, would not be noticed" in known.text
    (older / "contents.csv").write_bytes(b"split,sha256\ntrain\n")
    with pytest.raises(fm.FieldmarkError, match="what the run says of its pictures' contents"):
        fm.evaluate(older, photos, progress=SILENT, device="cpu")


def test_classes_the_model_does_not_know_are_named(
    run: Run, make_pictures: Any, tmp_path: Path
) -> None:
    strange = make_pictures(tmp_path / "strange", {"ant": 1, "hornet": 2})
    with pytest.raises(fm.FieldmarkError) as caught:
        fm.evaluate(run.path, strange, progress=SILENT)
    assert "classes that the model does not know" in str(caught.value)
    assert "given:  'hornet'" in str(caught.value)
    assert "valid:  ant, bee, wasp" in str(caught.value)


def test_nothing_lands_outside_the_evaluations(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run.path / "metrics.json").read_text()
    monkeypatch.chdir(photos / "ant")
    evaluation = fm.evaluate(run.path, "..", device="cpu", progress=SILENT)
    assert evaluation.path.resolve().is_relative_to((run.path / "evaluations").resolve())
    assert (run.path / "metrics.json").read_text() == before


# The promise of `make demo` -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_reaches_97_percent_on_digits_held_back(tmp_path: Path) -> None:
    run = fm.train("digits", settings=DEMO_SETTINGS, out=tmp_path / "demo", progress=SILENT)
    assert run.test is not None
    assert run.test.accuracy.n >= 170
    assert run.test.accuracy.value >= 0.97
    listener = Listener()
    fm.evaluate(run.path, "digits", out=tmp_path / "all", progress=listener)
    assert "were used to train or choose this model" in listener.text
