"""What is said of a training's time before it starts, and what a budget makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fieldmark as fm
from fieldmark.assembly import estimates
from fieldmark.budget.costs import ModeEstimate
from fieldmark.errors import RecipeError
from fieldmark.recipe import Recipe
from support.transfers import Said, transfer

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_pictures: Any) -> Path:
    folder: Path = make_pictures(
        tmp_path_factory.mktemp("estimates") / "photos", {"ant": 10, "bee": 10}
    )
    return folder


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Epochs of all weights take a minute, of a head a second after 20 s for features; the recipes
    that were measured."""
    asked: list[Recipe] = []

    def probe(model: Any, recipe: Recipe, *args: Any, features: bool, views: int) -> ModeEstimate:
        asked.append(recipe)
        assert views == (recipe.transfer.views if recipe.mode == "frozen" else 0)  # augments none
        assert features == (recipe.mode == "frozen" or bool(recipe.transfer.head_first))
        setup, each = (20.0, 1.0) if recipe.mode == "frozen" else (0.0, 60.0)
        total = setup + each * recipe.training.epochs
        return ModeEstimate(setup, each, total, 10**8, 20, view_seconds=setup / 4)

    monkeypatch.setattr(estimates, "probe_mode", probe)
    return asked


# The estimate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [{"mode": "frozen"}, {"mode": "finetune", "head_first": False}])
def test_an_estimate_is_said_where_it_is_worth_it_and_before_the_work(
    words: dict[str, Any],
    photos: Path,
    tmp_path: Path,
    tiny_run: fm.Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    said = Said()
    transfer(photos, tmp_path / "tiny", tiny_run.path, epochs=1, progress=said, **words)
    assert not said.has("estimate: ")

    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(estimates, "WORTH_AN_ESTIMATE", 16 * 32**2)  # as many as there are
    said = Said()
    transfer(photos, tmp_path / "large", tiny_run.path, epochs=1, progress=said, **words)
    line = said.line("estimate: about ")
    assert "an epoch, 1 epoch" in line
    if words["mode"] == "frozen":
        assert "for features" in line
        assert said.lines.index(line) < said.lines.index(said.line("features: "))
    # Of features that are there already there is nothing to say.
    said = Said()
    transfer(photos, tmp_path / "again", tiny_run.path, epochs=1, progress=said, **words)
    assert said.has("estimate: ") == (words["mode"] == "finetune")


# The budget ---------------------------------------------------------------------------------------


def test_the_mode_gives_way_to_the_time_and_that_is_said(
    costs: list[Recipe], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    run = transfer(photos, tmp_path / "run", tiny_run.path, budget="2m", epochs=None, progress=said)
    assert [recipe.mode for recipe in costs] == ["finetune", "frozen"]
    assert run.recipe.mode == "frozen"
    assert run.recipe.training.epochs == 20
    assert len(run.history) == 20
    assert said.has("budget 2 min 00 s: a few short measurements decide how it is spent")
    assert said.has("budget: finetune would take 20 min (5 epochs: 5 min): frozen")
    assert said.line("budget: frozen").endswith("for features; about 100 MB")


def test_with_time_enough_nothing_is_given_up(
    costs: list[Recipe], photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    words = {"budget": "1h", "epochs": 1, "progress": said}
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert [recipe.mode for recipe in costs] == ["finetune"]
    assert run.recipe.mode == "finetune"
    assert len([line for line in said.lines if line.startswith("budget: ")]) == 1


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ({"mode": "finetune", "epochs": 2}, "finetune"),
        ({"mode": "frozen", "views": 2, "augment": "light", "epochs": 3}, "frozen"),
        ({"views": 2, "augment": "light", "epochs": 3}, "frozen"),
        ({"folds": 2, "epochs": 2}, "frozen"),
        ({"folds": 2, "epochs": 2, "recipe": Recipe()}, "frozen"),
        ({"views": "auto", "head_first": True, "epochs": 1}, "finetune"),
        ({"stage_lr_decay": 0.5, "epochs": 1}, "finetune"),
        ({"unfreeze_every": 1, "epochs": 1}, "finetune"),
        ({"head_first": True, "epochs": 1}, "finetune"),
    ],
)
def test_what_was_asked_for_is_kept_whatever_it_takes(
    words: dict[str, Any],
    mode: str,
    costs: list[Recipe],
    photos: Path,
    tmp_path: Path,
    tiny_run: fm.Run,
) -> None:
    said = Said()
    run = transfer(photos, tmp_path / "run", tiny_run.path, budget="10s", progress=said, **words)
    assert {recipe.mode for recipe in costs} == {mode}
    assert run.recipe.mode == mode
    assert run.history[-1].epoch == words["epochs"]
    assert run.recipe.data.size == 32
    if words.get("views", "auto") != "auto":
        assert run.recipe.transfer.views == words["views"]
    assert said.has("budget: WARNING: nothing fits well into 10 s") or (
        said.has("budget: WARNING: nothing fits well into 9.")
    )


def test_a_second_is_enough_for_the_cheapest_with_a_warning(
    photos: Path, tmp_path: Path, tiny_run: fm.Run
) -> None:
    said = Said()
    words = {"budget": "1s", "epochs": None, "progress": said}
    run = transfer(photos, tmp_path / "run", tiny_run.path, **words)
    assert run.recipe.mode in ("frozen", "finetune")
    assert run.history[-1].epoch == run.recipe.training.epochs <= 20
    assert said.has("budget: ")


@pytest.mark.parametrize("text", ["soon", "0s", "-5m", "1h30", "100d"])
def test_a_time_that_is_none_is_refused_before_anything_is_looked_at(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:  # not that there is no such folder
        transfer(tmp_path / "nowhere", tmp_path / "run", tmp_path / "no weights", budget=text)
    assert "this is no time that a training could take" in str(caught.value)
    assert f"budget = '{text}'" in str(caught.value)
