"""A run on disk: one directory, and the name of every file in it. Knows no contents."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fieldmark.errors import CheckpointError, OutputError, closest
from fieldmark.files import (
    cannot_write,
    check_is_unused,
    claim_directory,
    free_directory,
    nearest_existing,
)

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where the parts of a run are."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.csv"

    @property
    def contents(self) -> Path:
        return self.path / "contents.csv"

    @property
    def left_out(self) -> Path:
        return self.path / "left_out.csv"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def class_indices(self) -> Path:
        return self.path / "class_indices.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def out_of_fold(self) -> Path:
        return self.path / "out_of_fold.csv"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def confusion(self) -> Path:
        return self.path / "confusion_matrix.csv"

    @property
    def curves_png(self) -> Path:
        return self.path / "curves.png"

    @property
    def confusion_png(self) -> Path:
        return self.path / "confusion_matrix.png"

    @property
    def predictions_png(self) -> Path:
        return self.path / "predictions.png"

    @property
    def pictures_png(self) -> Path:
        return self.path / "pictures.png"

    def evaluation(self, name: str) -> RunDirectory:
        """Where a later evaluation on other pictures lands."""
        return RunDirectory(self.path / "evaluations" / name)


def new_run(out: str | Path | None, name: str | None, default_name: str) -> RunDirectory:
    """Claim the directory of a new run: `out`, else `runs/NAME`, else a free `runs/DEFAULT-N`.

    Raises:
        OutputError: it exists and is not empty, cannot be written, or the name is no name.
    """
    directory = named_directory(out, name) or free_directory(RUNS / default_name)
    claim_directory(directory)
    return RunDirectory(directory)


def check_place(out: str | Path | None, name: str | None) -> None:
    """Refuse a place for a new run that `new_run` would refuse after the long work before it.

    Raises:
        OutputError: there is something in it, it cannot be made or written, or the name is no name.
    """
    directory = named_directory(out, name) or RUNS / "new"
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(directory.absolute())):
            pass
    except OSError as error:
        raise cannot_write(directory if out or name else RUNS, error) from error


def named_directory(out: str | Path | None, name: str | None) -> Path | None:
    """The directory that `out` or `name` mean, if one is given and nothing is in it yet.

    Raises:
        OutputError: there is something in it, or the name is no name.
    """
    if out is not None:
        directory = Path(out)
    elif name is None:
        return None
    elif name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise OutputError(
            "a run's name is one folder name",
            given=repr(name),
            fix="leave slashes out, or say where with --out",
        )
    else:
        directory = RUNS / name
    check_is_unused(directory)
    return directory


def new_evaluation(run: RunDirectory, out: str | Path | None, default_name: str) -> RunDirectory:
    """Claim the directory of a later evaluation: `out`, else a free `evaluations/DEFAULT-N`.

    Raises:
        OutputError: it exists and is not empty, or cannot be written.
    """
    default = run.evaluation(default_name).path
    directory = Path(out) if out is not None else free_directory(default)
    claim_directory(directory)
    return RunDirectory(directory)


def find_model(run: str | Path) -> Path:
    """The model file a user means: a run directory, the name of a run, or the file itself.

    Raises:
        CheckpointError: there is none; lists the runs made here.
    """
    candidates = (Path(run), RUNS / run)
    try:
        for candidate in candidates:
            model = RunDirectory(candidate).model if candidate.is_dir() else candidate
            if model.is_file():
                return model
        # Only now: a folder of pictures may well have the name of the run made from it.
        unfinished = [path for path in candidates if RunDirectory(path).recipe.is_file()]
    except OSError as error:  # no permission, or longer than any file name
        raise CheckpointError(
            f"cannot look there for a model: {error.strerror}",
            given=run,
            fix="check the path and its permissions",
        ) from error
    if unfinished:
        raise CheckpointError(
            "this run holds no model: no epoch was finished",
            given=unfinished[0],
            fix="train again",
        )
    made = sorted(str(path.parent) for path in RUNS.glob("*/model.safetensors"))
    near = closest(Path(run).name, [Path(path).name for path in made])
    raise CheckpointError(
        "no such run or model file",
        given=f"{run} (looked for it here and in {RUNS.resolve()})",
        valid=made[-8:] or "a run directory, or a model.safetensors",
        fix=f"did you mean {RUNS / near}?"
        if near
        else "check the path; `fieldmark train` writes runs below the directory it is started in",
    )
