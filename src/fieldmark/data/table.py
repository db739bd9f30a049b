"""A table of pictures as text: its columns and rows, before anybody looks at the pictures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fieldmark.errors import SourceError

COLUMNS: Final = ("path", "label", "split", "group")
_ORIGIN: Final = "source"  # where `fieldmark split` took a picture from; of no use to others
_OTHER_WORDS: Final = {
    "path": ("file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    "label": ("class", "class_name", "category", "target", "y", "species", "name"),
}
# What a spreadsheet writes depends on the country: semicolons where the comma is decimal.
_MARKS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
_LIKE_GROUPS: Final = frozenset(
    (
        *("camera", "site", "trap", "patient", "subject", "location", "sequence", "film", "video"),
        *("animal", "individual"),
    )
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table's text.

    Attributes:
        header: the names of the columns, in lower case.
        rows: line number and values of each row that is not blank.
        separated_by: comma, semicolon or tab.
        notes: sentences the user should be told.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, list[str]], ...]
    separated_by: str
    notes: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Read a CSV in UTF-8 with at least the columns `path,label`, in any order.

    Raises:
        SourceError: not such a CSV, or no row.
    """
    text = _read_text(path)
    mark = _mark_of(text)
    try:
        if "\0" in text:
            raise csv.Error("it holds zero bytes")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise _no_csv(f"{path}: {error}") from error
    if not rows:
        raise SourceError(
            "the CSV is empty",
            given=path,
            valid="the header path,label[,split][,group], then a row for each picture",
            fix="write one row for each picture",
        )
    header = _names_of(rows[0][1])
    _check_header(header, path)
    if len(rows) == 1:
        raise SourceError(
            "the CSV has a header and nothing below it",
            given=path,
            fix="write one row for each picture",
        )
    notes = _notes_on_columns(header)
    if mark != ",":
        notes.insert(0, f"The values in {path.name} are separated by {_MARKS[mark]}s.")
    return Table(tuple(header), tuple(rows[1:]), _MARKS[mark], tuple(notes))


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"the CSV cannot be read: {error.strerror or error}",
            given=path,
            fix="check its name and its permissions",
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _no_csv(f"{path}: a letter in line {line} is written in another encoding") from error


def _no_csv(given: str) -> SourceError:
    return SourceError(
        "this is not a CSV in UTF-8",
        given=given,
        valid="a text table with the header path,label[,split][,group]",
        fix="save it again as 'CSV UTF-8'",
    )


def _mark_of(text: str) -> str:
    """What separates the values: the mark that makes `path` and `label` columns of the header."""
    first = next((line for line in text.splitlines() if line.strip(" \t,;")), "")
    for mark in _MARKS:
        try:
            header = _names_of(next(csv.reader([first], delimiter=mark), []))
        except csv.Error:  # said where all of it is read
            continue
        if {"path", "label"} <= set(header):
            return mark
    return ","


def _names_of(row: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in row]


def _check_header(header: list[str], path: Path) -> None:
    missing = [name for name in ("path", "label") if name not in header]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if not missing and not twice:
        return
    fix = "name the columns in the first line: path,label"
    if len(header) == 1 and (mark := next((m for m in ";\t" if m in header[0]), "")):
        header = _names_of(header[0].split(mark))
        missing = [name for name in missing if name not in header]
    for name in missing:
        other = next((word for word in _OTHER_WORDS[name] if word in header), None)
        if other:
            fix = f"rename the column {other!r} to {name!r}"
            break
    problem = f"no column {missing[0]!r}" if missing else f"two columns {twice[0]!r}"
    raise SourceError(
        f"the CSV has {problem}",
        given=f"{path}: the columns are {', '.join(map(repr, header))}",
        valid="path,label, and if you like split and group, in any order",
        fix=fix,
    )


def _notes_on_columns(header: Sequence[str]) -> list[str]:
    unused = [name for name in header if name not in (*COLUMNS, _ORIGIN)]
    if not unused:
        return []
    notes = [f"Columns not used: {', '.join(name or '(no name)' for name in unused)}."]
    alike = [name for name in unused if _is_like_a_group(name)]
    if alike and "group" not in header:
        notes.append(
            f"If pictures with one {alike[0]!r} are not independent of each other, as those of one "
            f"film or patient, call that column 'group': they then stay in one part."
        )
    return notes


def _is_like_a_group(name: str) -> bool:
    words = re.split(r"[\W_]+", name)
    return any(word.removesuffix("id").removesuffix("s") in _LIKE_GROUPS for word in words)
