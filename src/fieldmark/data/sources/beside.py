"""The groups of a folder that `fieldmark split` wrote: they stand in the table beside its parts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fieldmark.data.sources.candidates import counted
from fieldmark.types import Sample

TABLE_NAME: Final = "manifest.csv"
COLUMNS: Final = ("path", "label", "split", "group", "source")  # as partition.py writes them


def take_groups_beside(root: Path, samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """`samples` with the groups that the table in `root` gives them, and what to tell of it.

    A picture that the table does not name has none, and a row whose picture is gone means nothing:
    people add and remove pictures. Another table of that name is none of this; nothing here fails.
    """
    table = root / TABLE_NAME
    try:
        text = table.read_text(encoding="utf-8-sig") if table.is_file() else ""
        header, *rows = csv.reader(io.StringIO(text, newline="")) if text else [[]]
    except (OSError, ValueError, csv.Error):
        return list(samples), [f"{table} cannot be read; if it names groups, they are not known."]
    if tuple(header) != COLUMNS:
        return list(samples), []
    # Names are put together as the walk does it, and compared as texts.
    groups = {str(root / row[0]): row[3] for row in rows if len(row) == len(COLUMNS) and row[3]}
    grouped = [replace(sample, group=groups.get(sample.path, sample.group)) for sample in samples]
    names = [sample.group for sample in grouped if sample.group]
    if not names:
        return grouped, []
    return grouped, [
        f"Groups are taken from {table}: {counted(len(set(names)), 'group')} of "
        f"{counted(len(names), 'picture')}."
    ]
