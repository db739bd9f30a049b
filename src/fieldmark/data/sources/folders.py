"""Class folders: which folders are the parts, which the classes, and what lies in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fieldmark.data.sources.candidates import PART_WORDS, counted
from fieldmark.data.sources.listing import (
    NOT_UTF8,
    cannot_open,
    entries_of,
    is_text,
    list_folder,
    shown,
    some,
    walk,
)
from fieldmark.data.sources.own import own_tables
from fieldmark.errors import SourceError
from fieldmark.types import PARTS, LeftOut, Part, Sample

_LAYOUT: Final = "SOURCE/ants/1.jpg, SOURCE/bees/2.jpg: one folder for each class, pictures inside"
_CSV: Final = "write a CSV with the columns path,label"


@dataclass
class Findings:
    """What a walk through class folders collects.

    Attributes:
        own: folders that Fieldmark wrote, which were passed over.
    """

    samples: list[Sample] = field(default_factory=list)
    class_names: set[str] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own: set[Path] = field(default_factory=set)


def find_in_folders(root: Path, depth: int) -> Findings:
    """Every file in the class folders of `root`, under the name of its class.

    Args:
        depth: the class is the folder so many levels below `root`, or below train/, val/, test/
            where there are such. Folders of one name are one class, wherever they lie.

    Raises:
        SourceError: there are no class folders so far down, or they cannot be the classes.
    """
    found = Findings()
    folders, files = list_folder(root, found.own)
    parts = {name: PART_WORDS[name.lower()] for name in folders if name.lower() in PART_WORDS}
    # Two such names, or nothing else: nobody calls two classes "train" and "val".
    if len(parts) > 1 or (parts and len(parts) == len(folders)):
        _walk_parts(root, folders, parts, depth, found)
    else:
        _walk_classes(root, "", depth, found)
    tables = own_tables(root, files)
    strays = [name for name in files if name not in tables]
    if strays and folders:
        found.notes.append(f"Not looked at, lying outside the class folders: {some(strays)}.")
    if found.own:
        names = sorted(str(path.relative_to(root)) for path in found.own)
        found.notes.append(f"Passed over, being written by Fieldmark: {some(names)}.")
    return found


def _walk_parts(
    root: Path, folders: list[str], parts: Mapping[str, Part], depth: int, found: Findings
) -> None:
    by_part: dict[Part, str] = {}
    for name, part in parts.items():
        if part in by_part:
            raise SourceError(
                f"two folders both claim to be {part}",
                given=f"{root}: {by_part[part]}, {name}",
                fix="keep one of them, or merge them",
            )
        # Competitions ship a test/ of pictures without labels; it has no bearing on training.
        if part != "train" and not list_folder(root / name)[0]:
            found.notes.append(f"Not looked at, having no class folders: {name}/.")
        else:
            by_part[part] = name
    if "train" not in by_part:
        raise SourceError(
            "there is no train/ beside the other parts",
            given=f"{root}: {', '.join(parts)}",
            valid="train/ with val/, test/ or both; or class folders alone",
            fix="add train/, or name the folder of one part to use it by itself: "
            f"{root / next(iter(parts))}",
        )
    alone = len(by_part) == 1
    for part in PARTS:
        if part in by_part:
            _walk_classes(root / by_part[part], "" if alone else part, depth, found)
    if alone:
        found.notes.append("train/ is the only part with labels; the others are drawn from it.")
    others = [name for name in folders if name not in parts]
    if others:
        found.notes.append(f"Not looked at, being no part (train, val, test): {some(others)}.")


def _walk_classes(root: Path, part: Part | Literal[""], depth: int, found: Findings) -> None:
    folders, files = list_folder(root, found.own)
    if not folders:
        raise SourceError(
            "this folder holds no class folders"
            + (f", but {counted(len(files), 'file')} directly" if files else ": it is empty"),
            given=root,
            valid=_LAYOUT,
            fix=f"sort the pictures into one folder for each class, or {_CSV}",
        )
    classes = _class_folders(root, folders, depth, found)
    _check_level(root, classes, depth)
    for folder in classes:
        found.class_names.add(folder.name)
        for path in walk(folder, set(), found.left_out, found.own):
            found.samples.append(Sample(path, folder.name, part))
    _say_merged(root, classes, found)


def _class_folders(root: Path, folders: list[str], depth: int, found: Findings) -> list[Path]:
    """The folders `depth` levels below `root`; files on the way there are left out."""
    level = [root / name for name in folders]
    for above in range(1, depth):
        deeper: list[Path] = []
        for folder in level:
            try:
                inside, files = entries_of(folder, found.own)
            except OSError as error:
                found.left_out.append(cannot_open(folder, error))
                continue
            reason = f"it lies {above} level{'s' * (above > 1)} down, the classes {depth}"
            found.left_out += [LeftOut(shown(folder / name), reason) for name in files]
            deeper += [folder / name for name in inside]
        if not deeper:
            raise SourceError(
                f"there are no class folders {depth} levels down",
                given=f"{root}: {some(folders)}",
                valid="SOURCE/2023/ants/1.jpg is of class ants with --depth 2",
                fix=f"give the level of the folders that are the classes; in {root} it is "
                + (f"at most {above}" if above > 1 else "1: leave --depth out"),
            )
        level = deeper
    found.left_out += [LeftOut(shown(f), NOT_UTF8) for f in level if not is_text(str(f))]
    return [folder for folder in level if is_text(str(folder))]


def _check_level(root: Path, classes: Sequence[Path], depth: int) -> None:
    """Raise SourceError where the classes seem to lie one level deeper: 2023/ant, 2024/ant ..."""
    inside = None
    for folder in classes:
        try:
            deeper, files = entries_of(folder)
        except OSError:
            return  # said where the folder is walked
        if files or len(deeper) < 2 or (inside is not None and deeper != inside):
            return
        inside = deeper
    if inside is None:
        return
    names = [str(folder.relative_to(root)) for folder in classes]
    several = len(names) > 1
    if not several and all(name.lower() in PART_WORDS for name in inside):
        raise SourceError(
            "the parts lie one level deeper",
            given=f"{root}: {names[0]}; in it {some(inside)}",
            valid="a folder with train/ val/ [test/] directly in it",
            fix=f"name that folder: {classes[0]}",
        )
    merged = " (folders of one name become one class)" if several else ""
    raise SourceError(
        "these seem not to be the classes: they hold no picture directly, but the same folders"
        if several
        else "this seems not to be a class: it holds no picture directly, but folders",
        given=f"{root}: {some(names)}; in {'each of them' if several else 'it'} {some(inside)}",
        valid=_LAYOUT,
        fix=f"if the classes are {some(inside)}, add --depth {depth + 1}{merged}, or name one "
        f"level deeper: {classes[0]}; if not, {_CSV}",
    )


def _say_merged(root: Path, classes: Sequence[Path], found: Findings) -> None:
    by_name: dict[str, list[str]] = defaultdict(list)
    for folder in classes:
        by_name[folder.name].append(str(folder.relative_to(root)))
    merged = {name: places for name, places in by_name.items() if len(places) > 1}
    if merged:
        first, places = next(iter(merged.items()))
        num_folders = sum(map(len, merged.values()))
        found.notes.append(
            f"Folders of one name are one class: {num_folders:,} folders became "
            f"{counted(len(merged), 'class')}, as {some(places)} became {first}."
        )
