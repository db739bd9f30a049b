"""From whatever a user names to a manifest.

A source is a folder of class folders, a folder of train/ val/ [test/] with class folders, a
manifest CSV, a folder of IDX files, a known name, or a list of (path, label[, part]).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fieldmark.data.manifest import SILENT, Manifest, build_manifest, read_manifest
from fieldmark.data.sources.candidates import (
    PART_WORDS,
    check_all_or_no_parts,
    check_labels,
    check_train_knows_all,
    counted,
    merge_duplicates,
    part_of_word,
)
from fieldmark.data.sources.idx import find_idx_pairs, read_idx_folder
from fieldmark.data.sources.named import NAMED_SOURCES, load_named
from fieldmark.errors import SourceError, closest
from fieldmark.progress import Progress
from fieldmark.types import PARTS, LeftOut, Part, Sample

Row = tuple[str, str] | tuple[str, str, str]

_KINDS: Final = (
    "a folder of class folders, a folder of train/ val/ [test/] with class folders, "
    "a CSV (path,label[,split]), a folder of IDX files, or a known name: "
    + ", ".join(NAMED_SOURCES)
)
NOT_UTF8: Final = "its name is not UTF-8: rename it"
_LAYOUT: Final = "SOURCE/ants/1.jpg, SOURCE/bees/2.jpg: one folder for each class, pictures inside"
# What operating systems and storage boxes leave behind; names that begin with a dot go as well.
_LITTER: Final = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin")
)


def scan(
    source: str | Path | Manifest | Iterable[Row | Sample], *, progress: Progress = SILENT
) -> Manifest:
    """Find the pictures of `source` and their labels; samples carry the part the source gives them.

    Headers are looked at, pixels are not: what is damaged further down shows when it is decoded.
    The order depends on names alone, not on the file system.

    Raises:
        SourceError: there are no labelled pictures to be found; the message says why.
    """
    if isinstance(source, Manifest):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _scan_path(os.fspath(source), progress)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        return _scan_rows(source, progress)
    raise SourceError(
        "this is not a source of pictures",
        given=f"{source!r} ({type(source).__name__})",
        valid=f"{_KINDS}; or a list of (path, label) or (path, label, part)",
        fix="name a folder",
    )


def _scan_path(text: str, progress: Progress) -> Manifest:
    if not text.strip():
        raise SourceError("no source was given", valid=_KINDS, fix="name a folder of pictures")
    path = Path(text).expanduser().absolute()
    try:
        if path.is_dir():
            return _scan_folder(path.resolve(), progress)
        if path.is_file():
            return _scan_file(path, progress)
        there = path.exists()
    except OSError as error:
        raise _not_readable(path, error) from error
    if there:
        raise SourceError(
            "this is neither a folder nor a file", given=path, valid=_KINDS, fix="name a folder"
        )
    if text in NAMED_SOURCES:
        return _scan_named(text)
    raise _missing(text, path)


def _scan_file(path: Path, progress: Progress) -> Manifest:
    if path.suffix.lower() == ".csv":
        return read_manifest(path, progress=progress)
    fix = f"name the folder: {path.parent}"
    if path.suffix.lower() in (".zip", ".tar", ".tgz", ".7z", ".rar") or ".tar." in path.name:
        fix = "unpack it, and name the folder it unpacks to"
    elif "idx" in path.name.lower():
        fix = f"name the folder that holds the IDX files: {path.parent}"
    raise SourceError("one file is not a source of pictures", given=path, valid=_KINDS, fix=fix)


def _scan_named(name: str) -> Manifest:
    pictures = load_named(name)
    samples = tuple(Sample(f"{name}#{i}", label) for i, label in enumerate(pictures.labels))
    side = min(pictures.images.shape[1:])
    return Manifest(samples, pictures.class_names, (), (), all_grey=True, typical_side_px=side)


def _scan_rows(rows: Iterable[object], progress: Progress) -> Manifest:
    samples = [_sample_of_row(i, row) for i, row in enumerate(rows)]
    check_labels((sample.path, sample.label) for sample in samples)
    check_all_or_no_parts(samples, "the list")
    kept, duplicates, notes = merge_duplicates(samples)
    return build_manifest(
        kept, given="the list", left_out=duplicates, notes=notes, progress=progress
    )


def _sample_of_row(i: int, row: object) -> Sample:
    match row:
        case Sample():
            return row
        case (str() | os.PathLike() as path, label):
            word = None
        case (str() | os.PathLike() as path, label, None | str() as word):
            pass
        case _:
            raise SourceError(
                "an entry of the list does not name a picture and its label",
                given=f"entry {i}: {row!r}",
                valid="(path, label) or (path, label, part), all of them texts",
                fix="for example [('a.jpg', 'ants'), ('b.jpg', 'bees')]",
            )
    check_labels([(str(path), label)])
    return Sample(os.fspath(path), str(label), part_of_word(word or "", f"entry {i}"))


# Folders ------------------------------------------------------------------------------------------


@dataclass
class _Findings:
    """What a walk through class folders collects."""

    samples: list[Sample] = field(default_factory=list)
    class_names: set[str] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _scan_folder(root: Path, progress: Progress) -> Manifest:
    folders, files = _list(root)
    if (idx_root := _find_idx_root(root, folders)) is not None:
        return _scan_idx(idx_root)
    parts = {name: PART_WORDS[name.lower()] for name in folders if name.lower() in PART_WORDS}
    # Two such names, or nothing else: nobody calls two classes "train" and "val".
    found = _Findings()
    if len(parts) > 1 or (parts and len(parts) == len(folders)):
        _walk_parts(root, folders, parts, found)
    else:
        _walk_classes(root, "", found)
    if files and folders:
        found.notes.append(f"Not looked at, lying outside the class folders: {_some(files)}.")
    # One file may be reached through several links, and must not land in two parts.
    kept, duplicates, notes = merge_duplicates(found.samples)
    return build_manifest(
        kept,
        given=str(root),
        class_names=found.class_names,
        left_out=(*found.left_out, *duplicates),
        notes=(*found.notes, *notes),
        progress=progress,
    )


def _walk_parts(
    root: Path, folders: list[str], parts: Mapping[str, Part], found: _Findings
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
        if part != "train" and not _list(root / name)[0]:
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
            _walk_classes(root / by_part[part], "" if alone else part, found)
    if alone:
        found.notes.append("train/ is the only part with labels; the others are drawn from it.")
    others = [name for name in folders if name not in parts]
    if others:
        found.notes.append(f"Not looked at, being no part (train, val, test): {_some(others)}.")


def _walk_classes(root: Path, part: Part | Literal[""], found: _Findings) -> None:
    folders, files = _list(root)
    if not folders:
        raise SourceError(
            "this folder holds no class folders"
            + (f", but {counted(len(files), 'file')} directly" if files else ": it is empty"),
            given=root,
            valid=_LAYOUT,
            fix="sort the pictures into one folder for each class, or write a CSV with the columns "
            "path,label",
        )
    _check_level(root, folders)
    for name in folders:
        if not is_text(name):
            found.left_out.append(LeftOut(shown(root / name), NOT_UTF8))
            continue
        found.class_names.add(name)
        for path in _walk(root / name, set(), found.left_out):
            found.samples.append(Sample(path, name, part))


def _check_level(root: Path, folders: list[str]) -> None:
    """Raise SourceError where the classes seem to lie one level deeper: 2023/ant, 2024/ant ..."""
    inside = None
    for name in folders:
        try:
            deeper, files = _entries(root / name)
        except OSError:
            return  # said where the folder is walked
        if files or len(deeper) < 2 or (inside is not None and deeper != inside):
            return
        inside = deeper
    if inside is None:
        return
    raise SourceError(
        "these seem not to be the classes: they hold no picture directly, but the same folders"
        if len(folders) > 1
        else "this seems not to be a class: it holds no picture directly, but folders",
        given=f"{root}: {_some(folders)}; in {'each of them' if folders[1:] else 'it'} "
        f"{_some(inside)}",
        valid=_LAYOUT,
        fix=f"if the classes are {_some(inside)}, name one level deeper: {root / folders[0]}"
        + ("; or gather the pictures of all of them by class" if len(folders) > 1 else "")
        + "; if not, write a CSV with the columns path,label",
    )


def _walk(folder: Path, seen: set[tuple[int, int]], left_out: list[LeftOut]) -> Iterator[str]:
    """Every file below `folder` worth looking at. Links are followed, each folder once only, so
    that links in a circle end."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        folders, files = _entries(folder)
    except OSError as error:
        left_out.append(LeftOut(shown(folder), f"folder cannot be opened: {error.strerror}"))
        return
    for name in sorted((*folders, *files)):
        if not is_text(name):
            left_out.append(LeftOut(shown(folder / name), NOT_UTF8))
        elif name in files:
            yield str(folder / name)
        else:
            yield from _walk(folder / name, seen, left_out)


def find_files_below(folder: Path) -> list[str | LeftOut]:
    """Every file below `folder` that may be a picture, then what could not be looked at; hidden
    files and litter are none."""
    left_out: list[LeftOut] = []
    files = list(_walk(folder, set(), left_out))
    return [*files, *left_out]


def _list(folder: Path) -> tuple[list[str], list[str]]:
    try:
        return _entries(folder)
    except OSError as error:
        raise _not_readable(folder, error) from error


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of folders and of everything else, sorted, without hidden files and litter."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


# IDX ----------------------------------------------------------------------------------------------


def _find_idx_root(root: Path, folders: list[str]) -> Path | None:
    """`root`, or the only folder in it, or torchvision's `raw/`: whichever has the IDX files."""
    inside = folders if len(folders) == 1 else [name for name in folders if name == "raw"]
    try:
        candidates = [root, *(root / name for name in inside)]
        return next((folder for folder in candidates if find_idx_pairs(folder)), None)
    except PermissionError:
        return None  # said where the folder is walked


def _scan_idx(root: Path) -> Manifest:
    found = read_idx_folder(root, find_idx_pairs(root))
    check_train_knows_all(found.samples, str(root))
    return Manifest(
        samples=found.samples,
        class_names=found.class_names,
        left_out=(),
        notes=found.notes,
        all_grey=True,
        typical_side_px=found.short_side_px,
    )


# Words --------------------------------------------------------------------------------------------


def _missing(text: str, path: Path) -> SourceError:
    """Point at the first part of the path that is not there, and at what looks like it."""
    parent = path.parent
    absent = path.name
    while not parent.is_dir() and parent != parent.parent:
        parent, absent = parent.parent, parent.name
    try:
        folders, files = _entries(parent)
        siblings = [*folders, *(name for name in files if name.lower().endswith(".csv"))]
    except OSError:
        siblings = []
    fix = f"check the spelling; {parent} has {_some(siblings) if siblings else 'no folders'}"
    if near := closest(absent, siblings):
        fix = f"did you mean {parent / near}?"
    elif near := closest(text, NAMED_SOURCES):
        fix = f"did you mean the data set {near!r}?"
    return SourceError(
        "there is no such folder, file or data set", given=text, valid=_KINDS, fix=fix
    )


def _not_readable(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"the folder cannot be read: {error.strerror or error}",
        given=folder,
        fix="check its permissions, or copy the pictures to a place of your own",
    )


def _some(names: list[str], limit: int = 5) -> str:
    first = ", ".join(shown(name) for name in names[:limit])
    return first + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def is_text(name: str) -> bool:
    """False for a name that is no UTF-8, which no CSV, terminal or page could show."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str | Path) -> str:
    """`path` with an escape in place of each byte that is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
