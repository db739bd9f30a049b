"""What Fieldmark itself leaves in a folder: runs, checks, the tables of a split. None of it is a
class or a picture of the user's, though there are PNGs in it."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Final

from fieldmark.data.sources.beside import COLUMNS, TABLE_NAME
from fieldmark.rundir import RUNS, RunDirectory

CHECK_TABLE: Final = "check.csv"
CHECK_PAGE: Final = "check.html"
COMPARISON: Final = "comparison.json"


def is_own_folder(folder: Path) -> bool:
    """Whether `folder` is a run, several compared, a check, or a `runs` with nothing but these."""
    return _is_run(folder) or _is_check(folder) or _holds_runs_only(folder)


def own_tables(folder: Path, names: list[str]) -> set[str]:
    """Those of the files `names` in `folder` that `fieldmark split` wrote beside its parts."""
    if TABLE_NAME not in names or not _is_split_table(folder / TABLE_NAME):
        return set()
    return {TABLE_NAME, RunDirectory(folder).left_out.name}.intersection(names)


def _is_run(folder: Path) -> bool:
    run = RunDirectory(folder)
    # Modes that `fieldmark transfer` compared are one run more, with a table in place of a recipe.
    is_one = _is_file(run.recipe) or _is_file(folder / COMPARISON)
    return is_one and (_is_file(run.model) or _is_file(run.manifest))


def _is_check(folder: Path) -> bool:
    return _is_file(folder / CHECK_TABLE) and _is_file(folder / CHECK_PAGE)


def _holds_runs_only(folder: Path) -> bool:
    if folder.name != RUNS.name:  # the test of most folders ends here, without a look at the disk
        return False
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return False
    return bool(inside) and all(map(_is_run, inside))


def _is_split_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), None) == list(COLUMNS)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises where a folder is closed
