"""Candidates: samples as somebody named them, before anybody looked at the pictures.

What folders, tables and lists have in common is checked here, once.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from fieldmark.data.parts.groups import merge
from fieldmark.data.pictures import is_named_locator
from fieldmark.errors import SourceError, closest
from fieldmark.types import LeftOut, Part, Sample

PART_WORDS: Final[Mapping[str, Part]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def counted(number: int, noun: str) -> str:
    """`1 picture`, `1,797 pictures`, `2 classes`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def summary_of(left_out: Sequence[LeftOut], limit: int = 3) -> str:
    """The first few with their reasons, for an error."""
    shown = [f"{item.path} ({item.reason})" for item in left_out[:limit]]
    more = len(left_out) - len(shown)
    return "; ".join(shown) + (f"; and {more:,} more" if more else "")


def check_labels(labelled: Iterable[tuple[str, object]]) -> None:
    """Raise SourceError for the first (path, label) whose label is no text, or an empty one."""
    for path, label in labelled:
        if not isinstance(label, str):
            raise SourceError(
                "a label is not a text",
                given=f"{label!r} ({type(label).__name__}) for {path}",
                valid="a class name such as 'ants'; numbers as text: '3'",
                fix="write labels as text, for example with str(label)"
                if label is not None
                else "give this picture a label, or leave it out",
            )
        if not label.strip():
            raise SourceError(
                "a label is empty",
                given=f"{label!r} for {path}",
                valid="a class name such as 'ants'",
                fix="give this picture a label, or leave it out",
            )


def part_of_word(word: str, where: str) -> Part | Literal[""]:
    """The part that `word` means; "" stays "".

    Raises:
        SourceError: it means none; `where` says who wrote it.
    """
    if not word:
        return ""
    part = PART_WORDS.get(word.lower())
    if part is None:
        near = closest(word, PART_WORDS)
        raise SourceError(
            "no such part of a data set",
            given=f"{word!r} ({where})",
            valid=tuple(PART_WORDS),
            fix=f"did you mean {near!r}?"
            if near
            else "use one of the valid words, or leave it empty",
        )
    return part


def check_all_or_no_parts(samples: Sequence[Sample], given: str) -> None:
    """Raise SourceError if some samples have a part and others none."""
    without = [sample.path for sample in samples if not sample.part]
    if 0 < len(without) < len(samples):
        raise SourceError(
            "some pictures are assigned to train, val or test, and others are not",
            given=f"{given}: {len(without):,} of {counted(len(samples), 'picture')} without, "
            f"the first is {without[0]}",
            fix="assign all of them, or none to have them drawn",
        )


def check_class_names(class_names: Sequence[object]) -> None:
    """Raise SourceError for a class name that is no text, empty, or there twice."""
    check_labels(("the classes", name) for name in class_names)
    twice = [str(name) for name, count in Counter(class_names).items() if count > 1]
    if twice:
        raise SourceError(
            "two classes have the same name",
            given=", ".join(twice),
            fix="give every class a name of its own",
        )


def check_train_knows_all(samples: Iterable[Sample], given: str) -> None:
    """Raise SourceError if val or test has a class that train lacks. Without train, all is well:
    such a source is there to be evaluated."""
    labels: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        labels[sample.part].add(sample.label)
    for part in ("val", "test"):
        unknown = sorted(labels[part] - labels["train"])
        if unknown and labels["train"]:
            near = closest(unknown[0], labels["train"])
            raise SourceError(
                f"{part} has a class that train has no pictures of",
                given=f"{given}: {', '.join(unknown)}",
                valid=sorted(labels["train"]),
                fix=f"is {unknown[0]!r} meant to be {near!r}?"
                if near
                else f"add such pictures to train, or take them out of {part}",
            )


def merge_duplicates(samples: Sequence[Sample]) -> tuple[list[Sample], list[LeftOut], list[str]]:
    """One sample a file: (kept, left out, notes).

    A file listed again in the same way, or reached again by a link, is left out; with different
    labels or parts, nothing says which is right, and all are left out. With different groups it is
    in both, which are then one.
    """
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        by_file[file_key(sample.path)].append(i)
    reasons: dict[int, str] = {}
    joined: list[list[int]] = []
    num_conflicts = 0
    for rows in by_file.values():
        labels = sorted({samples[i].label for i in rows})
        parts = sorted({samples[i].part for i in rows})
        if len(labels) > 1 or len(parts) > 1:
            num_conflicts += 1
            clash = (
                f"labels: {', '.join(labels)}" if len(labels) > 1 else f"parts: {', '.join(parts)}"
            )
            reasons |= dict.fromkeys(rows, f"there {len(rows)} times with different {clash}")
        else:
            first = samples[rows[0]].path
            reasons |= dict.fromkeys(rows[1:], f"there before: the same file as {first}")
            if len({samples[i].group for i in rows}) > 1:
                joined.append(rows)
    notes = []
    if num_conflicts:
        notes.append(
            f"{counted(num_conflicts, 'picture')} there several times, with different labels or "
            "parts: left out, for nothing says which is right."
        )
    if joined:
        joint = {", ".join(sorted({samples[i].group for i in rows} - {""})) for rows in joined}
        for names in sorted(joint):
            if ", " in names:
                notes.append(f"These groups share a picture, and are taken for one: {names}.")
        samples = merge(samples, joined)
    kept = [sample for i, sample in enumerate(samples) if i not in reasons]
    return kept, [LeftOut(samples[i].path, reasons[i]) for i in sorted(reasons)], notes


def file_key(path: str) -> str:
    # Path.resolve raises for links in a circle.
    return path if is_named_locator(path) else os.path.realpath(path)
