"""What was found and not used: named on the screen, written down. Needs no torch, as `fieldmark
check` and `split` need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Final

from fieldmark.evaluation.tables import csv_text
from fieldmark.files import write_text
from fieldmark.progress import Progress
from fieldmark.rundir import RunDirectory
from fieldmark.types import LeftOut

NUM_NAMED: Final = 3  # on the screen; left_out.csv has all


def say_left_out(
    left_out: Sequence[LeftOut], progress: Progress, *, run: RunDirectory | None = None
) -> None:
    """Name the first files that were left out; with a run, write them all down."""
    if not left_out:
        return
    where = ""
    if run is not None:
        write_left_out(run.left_out, left_out)
        where = f" (all in {run.left_out})" if len(left_out) > NUM_NAMED else f" ({run.left_out})"
    files = "file" if len(left_out) == 1 else "files"
    progress.say(f"{len(left_out)} {files} left out{where}:")
    for item in left_out[:NUM_NAMED]:
        progress.say(f"  {item.path}: {item.reason}")
    if len(left_out) > NUM_NAMED:
        progress.say(f"  and {len(left_out) - NUM_NAMED} more")


def write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    """`left_out.csv`: every file that was found and not used, with the reason."""
    write_text(path, csv_text([["path", "reason"], *(astuple(item) for item in left_out)]))
