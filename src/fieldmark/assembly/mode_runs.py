"""A comparison on disk: where it is, what of it is finished, what came out."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark import __version__
from fieldmark.checkpoint import load_info
from fieldmark.data.manifest import Manifest, write_manifest
from fieldmark.errors import FieldmarkError, TrainingError
from fieldmark.evaluation.modes import (
    NOTES,
    ModeResult,
    advise,
    best_of,
    comparison_csv,
    pair_with_best,
)
from fieldmark.figures.mode_curves import draw_error_curves
from fieldmark.files import write_text
from fieldmark.models.contract import as_network
from fieldmark.models.registry import create_model
from fieldmark.progress import Progress, Task, duration
from fieldmark.recipe import Recipe, load_recipe, to_dict
from fieldmark.report import write_json
from fieldmark.rundir import RUNS, RunDirectory, check_place, named_directory
from fieldmark.training.freeze import freeze, frozen_stages
from fieldmark.training.history import EPOCH_HEADER, EpochRow
from fieldmark.types import Estimate


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        path: the folder with comparison.csv, comparison.json, error_curves.png and a run a mode.
        results: a row a mode, the failed ones too, in the order they are trained.
        best: the mode that was best by validation.
        notes: how the figures came about.
        advice: which mode to go on with, and why; a sentence each.
    """

    path: Path
    results: tuple[ModeResult, ...]
    best: str
    notes: tuple[str, ...]
    advice: tuple[str, ...]


def check_comparison_place(out: str | Path | None, name: str | None) -> None:
    """Refuse a place that `find_place` would refuse, before the pictures are looked at.

    Raises:
        OutputError: there is something else in it, or it cannot be written.
    """
    folder = _named_folder(out, name)
    if folder is None or not _is_comparison(folder):
        check_place(out, name)


def _named_folder(out: str | Path | None, name: str | None) -> Path | None:
    if out is not None:
        return Path(out)
    return RUNS / name if name is not None else None


def _is_comparison(folder: Path) -> bool:
    parts = RunDirectory(folder)
    return parts.manifest.is_file() and not parts.recipe.exists()


def find_place(
    out: str | Path | None,
    name: str | None,
    default_name: str,
    manifest: Manifest,
    recipes: Mapping[str, Recipe],
) -> tuple[Path, dict[str, RunDirectory]]:
    """The folder of a comparison, and which modes are finished in it: that of an earlier call with
    the same parts and recipes, else a new one.

    Raises:
        OutputError: `out` or `name` is taken by something else.
    """
    if (named := _named_folder(out, name)) is not None:
        found = finished_modes(named, manifest, recipes)
        if found is None:
            named_directory(out, name)  # says that something is in the way
        return named, found or {}
    for number in count(1):
        folder = RUNS / (default_name if number == 1 else f"{default_name}-{number}")
        found = finished_modes(folder, manifest, recipes)
        if found is not None or not folder.exists():
            return folder, found or {}
    raise AssertionError("unreachable")


def finished_modes(
    folder: Path, manifest: Manifest, recipes: Mapping[str, Recipe]
) -> dict[str, RunDirectory] | None:
    """The finished runs of a comparison by mode; None where `folder` is not of this comparison."""
    if not _is_comparison(folder) or not same_parts(RunDirectory(folder), manifest):
        return None
    found: dict[str, RunDirectory] = {}
    for mode, recipe in recipes.items():
        for run in sorted(map(RunDirectory, folder.glob(f"{mode}*")), key=lambda run: run.path):
            if not run.metrics.is_file() or not run.predictions.is_file():
                continue  # broken off: the mode starts again beside it
            if not is_of(recipe, run):
                return None
            found[mode] = run
    return found


def same_parts(parts: RunDirectory, manifest: Manifest) -> bool:
    """Whether the table in a comparison's folder is that of `manifest`."""
    with tempfile.TemporaryDirectory() as name:
        table = Path(name) / "manifest.csv"
        write_manifest(manifest, table)
        return table.read_bytes() == parts.manifest.read_bytes()


def is_of(wanted: Recipe, run: RunDirectory) -> bool:
    """Whether a run was made by the recipe `wanted`; what that leaves at "auto" may be anything.

    The source is not compared: it is the folder's own table.
    """
    try:
        made = load_recipe(run.recipe)
    except FieldmarkError:
        return False
    return _agree(to_dict(replace(wanted, source="")), to_dict(replace(made, source="")))


def _agree(wanted: Any, made: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(made, dict):
        return wanted.keys() == made.keys() and all(_agree(wanted[k], made[k]) for k in wanted)
    return bool(wanted == "auto" or wanted == made)


# Figures ------------------------------------------------------------------------------------------


def read_result(mode: str, run: RunDirectory, peak_bytes: int | None) -> ModeResult:
    """The figures of a finished run, as it wrote them."""
    document = json.loads(run.metrics.read_text(encoding="utf-8"))
    test, val = document["test"]["accuracy"], document["val"]
    return ModeResult(
        mode=mode,
        run=str(run.path),
        test=Estimate(test["value"], test["low"], test["high"], test["n"]),
        num_val=val["accuracy"]["n"],
        val_accuracy=val["accuracy"]["value"],
        val_loss=val["loss"],
        seconds=document["seconds"],
        num_trainable=num_trainable(run),
        peak_bytes=peak_bytes,
        kept_epoch=document["best_epoch"]["epoch"],
    )


def num_trainable(run: RunDirectory) -> int:
    """Parameters of the run's network that its mode does not freeze."""
    built = load_info(run.model).architecture
    with torch.device("meta"):
        network = create_model(
            built["name"],
            num_classes=built["num_classes"],
            in_channels=built["in_channels"],
            **built["options"],
        )
    stages = frozen_stages(as_network(network), load_recipe(run.recipe))
    freeze(as_network(network), stages)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def read_correct(runs: Mapping[str, RunDirectory]) -> dict[str, NDArray[np.bool_]]:
    """Whether each test picture was answered rightly, for each run the same pictures in one order.

    Pictures that one of the runs could not read are left out for all.
    """
    answers = {}
    for mode, run in runs.items():
        rows = csv.DictReader(io.StringIO(run.predictions.read_text(encoding="utf-8"), newline=""))
        answers[mode] = {row["path"]: row["correct"] == "true" for row in rows}
    common = set.intersection(*(set(seen) for seen in answers.values())) if answers else set()
    return {
        mode: np.array([right for path, right in sorted(seen.items()) if path in common], bool)
        for mode, seen in answers.items()
    }


def read_history(run: RunDirectory) -> list[EpochRow]:
    """The rows of a run's history.csv."""
    types = get_type_hints(EpochRow)
    rows = csv.DictReader(io.StringIO(run.history.read_text(encoding="utf-8"), newline=""))
    return [EpochRow(**{name: kind(row[name]) for name, kind in types.items()}) for row in rows]


def cost(recipe: Recipe) -> float:
    """What a mode costs a picture, in forward passes: good enough for saying how long others take.

    A training step costs three: forward, and backward to the inputs and to the weights. What is
    frozen sees each stored view once; of partial that is taken to be half the network.
    """
    views = recipe.transfer.views
    once = max(1, views) if isinstance(views, int) else 1
    steps = 3 * recipe.training.epochs
    costs = {"frozen": once, "partial": (once + steps) / 2, "scratch": steps, "finetune": 1 + steps}
    return costs[recipe.mode]


class ModeProgress:
    """Reports of one mode among several: its number stands before every bar, and what an earlier
    mode has said before its training is not said again."""

    def __init__(self, progress: Progress, prefix: str, said: set[str]) -> None:
        self.progress, self.prefix, self.said = progress, prefix, said
        self.is_training = False

    def say(self, text: str) -> None:
        self.is_training |= text == EPOCH_HEADER
        if not self.is_training:
            if text in self.said:
                return
            self.said.add(text)
        self.progress.say(text)

    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> AbstractContextManager[Task]:
        return self.progress.task(f"{self.prefix}: {title}", total, done=done, in_bytes=in_bytes)


class Results:
    """What is known of the modes so far, and its files."""

    def __init__(
        self, folder: Path, recipes: Mapping[str, Recipe], machine: Mapping[str, Any]
    ) -> None:
        self.folder, self.chosen, self.machine = folder, tuple(recipes), machine
        self.costs = {mode: cost(recipe) for mode, recipe in recipes.items()}
        self.by_mode: dict[str, ModeResult] = {}
        self.runs: dict[str, RunDirectory] = {}
        self.memory, self.peaks = self._measured_before()

    def _measured_before(self) -> tuple[str, dict[str, int]]:
        """What was measured as memory, and each run's peak, as an earlier call wrote them."""
        try:
            document = json.loads((self.folder / "comparison.json").read_text(encoding="utf-8"))
            rows = [row for row in document["modes"] if row.get("peak_bytes")]
            return document["memory"], {row["run"]: row["peak_bytes"] for row in rows}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "", {}

    def add(
        self, mode: str, run: RunDirectory, peak_bytes: int | None, memory: str | None = None
    ) -> None:
        self.memory = memory or self.memory
        known = self.peaks.get(str(run.path)) if peak_bytes is None else peak_bytes
        self.by_mode[mode] = read_result(mode, run, known)
        self.runs[mode] = run
        self.write()

    def fail(self, mode: str, run: RunDirectory, error: FieldmarkError) -> None:
        self.by_mode[mode] = ModeResult(mode, str(run.path), failed=error.problem)
        self.write()

    def time_left(self, todo: Sequence[str]) -> str:
        """How long the modes `todo` will take at the pace of those before; empty at first."""
        done = [result for result in self.by_mode.values() if not result.failed]
        if not done:
            return ""
        pace = sum(r.seconds for r in done) / sum(self.costs[r.mode] for r in done)
        left = duration(pace * sum(self.costs[mode] for mode in todo))
        return f": about {left} left" + f" for {len(todo)} modes" * (len(todo) > 1)

    def compared(self) -> Comparison:
        """The comparison of what is there.

        Raises:
            TrainingError: no mode is finished.
        """
        rows = [self.by_mode[mode] for mode in self.chosen if mode in self.by_mode]
        results = pair_with_best(rows, read_correct(self.runs))
        best = best_of(results)
        if best is None:
            raise TrainingError(
                "no mode could be trained",
                given="; ".join(f"{r.mode}: {r.failed}" for r in results),
                fix="what to do stands beside each reason above",
            )
        notes = NOTES if len(self.runs) > 1 else ()
        if self.memory:
            notes = (*notes, f"Memory: the peak of {self.memory}.")
        return Comparison(self.folder, results, best.mode, notes, advise(results))

    def write(self) -> None:
        """comparison.csv, comparison.json and error_curves.png, once a mode is finished."""
        if not self.runs:
            return
        done = self.compared()
        document = {
            "fieldmark": __version__,
            "best": done.best,
            "advice": done.advice,
            "notes": done.notes,
            "memory": self.memory,
            "modes": [result.to_dict() for result in done.results],
            "machine": self.machine,
        }
        write_text(self.folder / "comparison.csv", comparison_csv(done.results))
        write_json(self.folder / "comparison.json", document)
        draw_error_curves(
            {mode: read_history(self.runs[mode]) for mode in self.chosen if mode in self.runs},
            self.folder / "error_curves.png",
        )
