"""`fieldmark transfer`: one split for all modes, nothing lost, nothing done twice.

Most tests put a trainer in place that takes no time and leaves what a training leaves; one trains.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fieldmark
from fieldmark import comparison, pretrained
from fieldmark.assembly import mode_runs, modes
from fieldmark.assembly.mode_runs import Comparison, is_of, num_trainable
from fieldmark.assembly.modes import MODES
from fieldmark.comparison import compare_modes
from fieldmark.data.manifest import read_samples
from fieldmark.errors import DownloadError, FieldmarkError, OutputError, TrainingError
from fieldmark.evaluation.paired import mcnemar
from fieldmark.models.official import official_weights
from fieldmark.pretrained import Pretrained, find_pretrained
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe, load_recipe, to_toml
from fieldmark.rundir import RunDirectory
from fieldmark.training.history import EPOCH_HEADER


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Trainer:
    """Stands in for `api.train`: leaves a run like any other, with figures by mode."""

    val = {"scratch": 0.5, "frozen": 0.9, "partial": 0.8, "finetune": 0.9}  # noqa: RUF012
    num_wrong = {"scratch": 3, "frozen": 0, "partial": 1, "finetune": 1}  # noqa: RUF012

    def __init__(self, like: RunDirectory) -> None:
        self.like = like
        self.calls: list[Recipe] = []
        self.ends: dict[str, BaseException] = {}

    def __call__(self, *, recipe: Recipe, out: Path, progress: Any) -> None:
        self.calls.append(recipe)
        run = RunDirectory(out)
        out.mkdir(parents=True)
        run.recipe.write_text(to_toml(recipe))
        for line in ("a note for all", EPOCH_HEADER, "* 1/1 an epoch"):
            progress.say(line)
        if recipe.mode in self.ends:
            raise self.ends[recipe.mode]
        shutil.copy(self.like.model, run.model)
        shutil.copy(self.like.history, run.history)
        document = json.loads(self.like.metrics.read_text())
        document["val"]["accuracy"]["value"] = self.val[recipe.mode]
        document["val"]["loss"] = 0.1 if recipe.mode == "frozen" else 0.2
        document["seconds"] = 30.0
        run.metrics.write_text(json.dumps(document))
        test = [s for s in read_samples(Path(recipe.source)) if s.part == "test"]
        wrong = self.num_wrong[recipe.mode]
        rows = [f"{s.path},{s.label},?,1,{str(i >= wrong).lower()}\n" for i, s in enumerate(test)]
        run.predictions.write_text("path,label,predicted,probability,correct\n" + "".join(rows))

    @property
    def modes(self) -> list[str]:
        return [recipe.mode for recipe in self.calls]


@pytest.fixture
def trainer(tiny_run: fieldmark.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    monkeypatch.chdir(tmp_path)
    made = Trainer(RunDirectory(tiny_run.path))
    monkeypatch.setattr(comparison, "train", made)
    monkeypatch.setattr(mode_runs, "draw_error_curves", lambda curves, path: path.touch())
    return made


@pytest.fixture
def photos(make_pictures: Callable[..., Path], tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "photos", {"cat": 20, "dog": 20, "owl": 20})


@pytest.fixture
def compare(
    trainer: Trainer, photos: Path, tiny_run: fieldmark.Run
) -> Callable[..., tuple[Comparison, Said]]:
    def run(said: Said | None = None, **words: Any) -> tuple[Comparison, Said]:
        said = said or Said()
        given = {"model": "resnet10", "weights": str(tiny_run.path), "device": "cpu", **words}
        return compare_modes("photos", progress=said, **given), said

    return run


FOLDER = Path("runs/photos-resnet10-transfer")


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


# One split, one budget ----------------------------------------------------------------------------


def test_every_mode_gets_the_same_parts_and_budget_and_its_own_words(
    compare: Any, trainer: Trainer, tiny_run: fieldmark.Run
) -> None:
    done, said = compare(seed=4, settings={"transfer.folds": 5, "transfer.stage_lr_decay": 0.5})
    assert tuple(trainer.modes) == MODES == tuple(r.mode for r in done.results)
    scratch, frozen, partial, finetune = trainer.calls
    for recipe in trainer.calls:
        assert recipe.source == str(FOLDER / "manifest.csv")
        assert (recipe.training.epochs, recipe.seed, recipe.data.size) == (10, 4, 32)
        assert recipe.data.mean == finetune.data.mean != "auto", "pictures are made alike"
        assert recipe.data.quick_check is False, "that has been done"
    assert [r.model.weights for r in trainer.calls] == ["none", *[str(tiny_run.path)] * 3]
    assert (frozen.transfer.folds, finetune.transfer.folds, scratch.transfer.folds) == (5, 0, 0)
    assert (frozen.transfer.stage_lr_decay, finetune.transfer.stage_lr_decay) == (1, 0.5)
    assert partial.training.freeze_through == "layer2"
    assert "partial is frozen through layer2 of stem, layer1, layer2" in said.text
    assert (frozen.optimizer.lr, scratch.optimizer.lr) == (5e-3, 1e-3)
    assert finetune.optimizer.lr == 1e-4, "each mode its own"


def test_the_table_of_parts_is_the_draw_of_train(
    compare: Any, photos: Path, trainer: Trainer, tmp_path: Path
) -> None:
    compare(seed=4, group_by="00[1-4]", depth=1)
    parts = {s.path: (s.part, s.group) for s in read_samples(FOLDER / "manifest.csv")}
    words = {"model": "resnet10", "epochs": 1, "size": 32, "device": "cpu"}
    run = fieldmark.train(
        photos, out=tmp_path / "r", seed=4, group_by="00[1-4]", progress=Silent(), **words
    )
    assert {s.path: (s.part, s.group) for s in read_samples(run.path / "manifest.csv")} == parts
    assert len({group for _, group in parts.values()}) == 5


def test_what_was_said_before_is_not_said_again_but_epochs_are(compare: Any) -> None:
    _, said = compare()
    assert said.lines.count("a note for all") == 1
    assert said.text.count("learning rate 0.0001: usual for adamw, finetune") == 1
    assert said.text.count("crop_fraction 1: usual at 32 px") <= 1
    assert said.lines.count("* 1/1 an epoch") == 4
    assert said.lines.count(EPOCH_HEADER) == 4
    starts = [line.strip() for line in said.lines if "mode " in line and " of 4, " in line]
    assert starts == [
        "mode 1 of 4, scratch",
        "mode 2 of 4, frozen: about 52 s left for 3 modes",
        "mode 3 of 4, partial: about 1 min 25 s left for 2 modes",
        "mode 4 of 4, finetune: about 55 s left",
    ]


# What comes out -----------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_runs(compare: Any, tiny_run: fieldmark.Run) -> None:
    done, _ = compare()
    by_mode = {result.mode: result for result in done.results}
    assert done.best == "frozen", "as many right as finetune, at a lower loss"
    correct = {
        mode: np.array(
            [row["correct"] == "true" for row in rows_of(Path(r.run, "predictions.csv"))]
        )
        for mode, r in by_mode.items()
    }
    assert by_mode["scratch"].paired == mcnemar(correct["scratch"], correct["frozen"])
    assert by_mode["scratch"].paired.num_b_only == 3
    assert by_mode["frozen"].paired is None
    network = tiny_run.load("cpu").model
    total = sum(p.numel() for p in network.parameters())
    assert by_mode["scratch"].num_trainable == by_mode["finetune"].num_trainable == total
    assert by_mode["frozen"].num_trainable == sum(p.numel() for p in network.fc.parameters())
    assert by_mode["frozen"].num_trainable < by_mode["partial"].num_trainable < total
    assert all(result.peak_bytes and result.peak_bytes > 1e7 for result in done.results)
    assert "chooses nothing" in " ".join(done.notes)
    assert "resident memory of the whole process" in done.notes[-1]

    document = json.loads((FOLDER / "comparison.json").read_text())
    assert document["modes"] == json.loads(json.dumps([r.to_dict() for r in done.results]))
    assert document["best"] == "frozen"
    assert document["advice"] == list(done.advice)
    table = rows_of(FOLDER / "comparison.csv")
    assert [row["mode"] for row in table] == list(MODES)
    assert (FOLDER / "error_curves.png").is_file()
    assert not [path for path in FOLDER.iterdir() if path.name.startswith(".")]


# Going on -----------------------------------------------------------------------------------------


def test_a_finished_comparison_is_found_again(compare: Any, trainer: Trainer) -> None:
    first, _ = compare()
    again, said = compare()
    assert len(trainer.calls) == 4
    assert "scratch, frozen, partial, finetune: finished by an earlier call" in said.text
    assert again == first, "with the memory that was measured then"


@pytest.mark.parametrize("words", [{"epochs": 3}, {"seed": 1}, {"freeze_through": "layer3"}])
def test_another_recipe_is_another_comparison(
    compare: Any, trainer: Trainer, words: dict[str, Any]
) -> None:
    compare()
    other, _ = compare(**words)
    assert other.path == Path("runs/photos-resnet10-transfer-2")
    assert len(trainer.calls) == 8
    with pytest.raises(OutputError, match="not empty"):
        compare(name=FOLDER.name, **words)
    assert compare(name=FOLDER.name)[0].path == FOLDER
    assert len(trainer.calls) == 8


def test_other_pictures_are_another_comparison(compare: Any, photos: Path) -> None:
    compare()
    (photos / "cat" / "000.png").unlink()
    assert compare()[0].path == Path("runs/photos-resnet10-transfer-2")


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(
    compare: Any, trainer: Trainer
) -> None:
    trainer.ends = {"partial": KeyboardInterrupt()}
    said = Said()
    with pytest.raises(KeyboardInterrupt):
        compare(said)
    assert (
        "2 finished modes of 4 kept in runs/photos-resnet10-transfer; the same command goes on"
        in (said.text)
    )
    assert [row["mode"] for row in rows_of(FOLDER / "comparison.csv")] == [*("scratch", "frozen")]
    trainer.ends = {}
    done, _ = compare()
    assert trainer.modes == ["scratch", "frozen", "partial", "partial", "finetune"]
    assert [Path(result.run).name for result in done.results] == [
        *("scratch", "frozen", "partial-2", "finetune")
    ]


def test_a_mode_that_fails_is_a_row_and_stops_nobody(compare: Any, trainer: Trainer) -> None:
    trainer.ends = {"frozen": TrainingError("there is not enough memory", fix="--batch-size 2")}
    done, said = compare()
    assert trainer.modes == list(MODES)
    assert done.results[1].failed == "there is not enough memory"
    assert "--batch-size 2" in said.text
    assert done.best == "finetune"
    assert done.results[0].paired is not None
    row = json.loads((FOLDER / "comparison.json").read_text())["modes"][1]
    assert row["failed"] == "there is not enough memory"
    trainer.ends = {}
    assert not any(result.failed for result in compare()[0].results), "it is tried again"


def test_all_failed_is_an_error_with_the_reasons(compare: Any, trainer: Trainer) -> None:
    trainer.ends = dict.fromkeys(MODES, TrainingError("the loss became nan"))
    with pytest.raises(TrainingError, match=r"no mode could be trained(.|\n)*frozen: the loss"):
        compare()
    assert not (FOLDER / "comparison.json").exists()


# What can be asked for ----------------------------------------------------------------------------


def test_without_weights_there_is_scratch_alone_and_that_is_said(
    compare: Any, trainer: Trainer
) -> None:
    done, said = compare(weights="none")
    assert trainer.modes == ["scratch"]
    assert "without them only scratch can be trained" in said.lines[0]
    assert "nothing is published for resnet10" in said.lines[0]
    assert done.advice[0].startswith("Only scratch was trained")
    assert done.advice[-1] == said.lines[0]
    _, said = compare(weights="none", model="resnet18", epochs=1)
    assert "--weights imagenet" in said.lines[0]


def test_published_weights_are_taken_where_nobody_names_any(
    compare: Any, trainer: Trainer, tiny_run: fieldmark.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where they cannot be had, it goes on without, and says why."""
    asked: list[str] = []

    def fetch(recipe: Recipe, progress: Any) -> Pretrained | None:
        asked.append(recipe.model.weights)
        if recipe.model.weights == "imagenet" and not online:
            raise DownloadError("no way to the publisher", fix="go online")
        if recipe.model.weights == "none":
            return None
        return find_pretrained(str(tiny_run.path), "resnet10", progress)

    for module in (modes, comparison):
        monkeypatch.setattr(module, "find_weights", fetch)
    for module in (modes, pretrained):
        monkeypatch.setattr(module, "published_weights", lambda name: official_weights("resnet18"))
    online = True
    _, said = compare(weights=None)
    assert trainer.modes == list(MODES)
    assert said.lines[0].startswith("weights imagenet: none are named, and resnet10 has these")
    assert {recipe.model.weights for recipe in trainer.calls} == {"none", "imagenet"}

    online = False
    trainer.calls.clear()
    done, said = compare(weights=None, epochs=1)
    assert trainer.modes == ["scratch"]
    assert said.lines[1].startswith("no way to the publisher")
    assert done.advice[0].startswith("Only scratch was trained")

    asked.clear()
    compare(weights="none", epochs=2)
    assert set(asked) == {"none"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"modes": ["frozn"]}, "did you mean 'frozen'"),
        ({"modes": ["frozen"], "weights": "none"}, r"frozen start(.|\n)*none are named(.|\n)*add"),
        ({"freeze_through": "layer9"}, r"layer9(.|\n)*stem, layer1, layer2, layer3, layer4"),
        ({"freeze_through": "layer1", "modes": ["frozen"]}, r"means nothing in frozen(.|\n)*parti"),
        ({"modes": ["finetune"], "folds": 5}, r"means nothing in finetune(.|\n)*frozen among"),
        ({"val_is_val": True}, "needs a test part"),
        ({"settings": {"data.test_fraction": 0.0}}, "needs a test part"),
        ({"name": "a/b"}, "one folder name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_training(
    compare: Any, trainer: Trainer, words: dict[str, Any], told: str
) -> None:
    with pytest.raises(FieldmarkError, match=told):
        compare(**words)
    assert not trainer.calls
    assert not Path("runs").exists()


def test_some_modes_and_the_others_later(compare: Any, trainer: Trainer) -> None:
    compare(modes=["finetune", "frozen"])
    assert trainer.modes == ["frozen", "finetune"]
    done, _ = compare()
    assert trainer.modes == ["frozen", "finetune", "scratch", "partial"]
    assert tuple(result.mode for result in done.results) == MODES


def test_a_recipe_of_one_mode_gives_its_words_to_all(
    compare: Any, trainer: Trainer, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(
        'mode = "partial"\n[training]\nfreeze_through = "layer3"\nepochs = 7\n'
    )
    _, said = compare(recipe=tmp_path / "r.toml")
    assert "the recipe is for mode partial" in said.lines[0]
    assert {recipe.training.epochs for recipe in trainer.calls} == {7}
    assert trainer.calls[2].training.freeze_through == "layer3"


def test_a_run_of_another_word_is_not_of_the_recipe(trainer: Trainer, tiny_run: Any) -> None:
    run = RunDirectory(tiny_run.path)
    recipe = load_recipe(run.recipe)
    assert is_of(recipe, run)
    assert is_of(recipe.with_settings({"optimizer.lr": "auto", "source": "elsewhere"}), run)
    assert not is_of(recipe.with_settings({"optimizer.lr": 0.5}), run)
    assert num_trainable(run) == sum(p.numel() for p in tiny_run.load("cpu").model.parameters())


def test_no_file_of_somebody_else_is_written_over(compare: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.csv").write_text("path,label\n")
    with pytest.raises(OutputError, match="not empty"):
        compare(out=tmp_path / "mine")
    assert (tmp_path / "mine" / "manifest.csv").read_text() == "path,label\n"


# For good -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_trains(
    make_pictures: Callable[..., Path],
    tiny_run: fieldmark.Run,
    no_drawing: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "photos", {"cat": 10, "dog": 10, "owl": 10})
    words = {"model": "resnet10", "weights": str(tiny_run.path), "epochs": 1, "batch_size": 16}
    said = Said()
    done = compare_modes("photos", device="cpu", progress=said, **words)  # type: ignore[arg-type]
    assert [(r.mode, r.failed) for r in done.results] == [(mode, "") for mode in MODES]
    for result in done.results:
        run = RunDirectory(Path(result.run))
        accuracy = json.loads(run.metrics.read_text())["test"]["accuracy"]
        assert result.test == fieldmark.Estimate(**accuracy)
        assert result.test is not None
        assert result.test.n == 3
        assert run.model.is_file()
    frozen = fieldmark.load(done.results[1].run, "cpu").model.state_dict()
    start = tiny_run.load("cpu").model.state_dict()
    assert all(torch.equal(frozen[name], start[name]) for name in start if "fc" not in name)
    again = compare_modes("photos", device="cpu", progress=said, **words)  # type: ignore[arg-type]
    assert again == done
