"""From whatever a user names to a manifest.

A source is a folder of class folders, a folder of train/ val/ [test/] with class folders, a zip or
tar of either, a manifest CSV, a folder of IDX files, a known name, a data set of the Hugging Face
hub, or a list of (path, label[, part]).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fieldmark.data.contents import content_keys
from fieldmark.data.manifest import SILENT, Manifest, build_manifest, read_manifest
from fieldmark.data.sources.archives import Unpacked, find_top, read_unpacked, unpack
from fieldmark.data.sources.beside import take_groups_beside
from fieldmark.data.sources.candidates import (
    PART_WORDS,
    check_all_or_no_parts,
    check_labels,
    check_train_knows_all,
    merge_duplicates,
    part_of_word,
)
from fieldmark.data.sources.fetch import fetch_files, is_prepared, prepared_folder
from fieldmark.data.sources.folders import find_in_folders
from fieldmark.data.sources.hf import PREFIX as HUB_PREFIX
from fieldmark.data.sources.hf import scan_hub
from fieldmark.data.sources.idx import find_idx_pairs, read_idx_folder
from fieldmark.data.sources.known import KNOWN_SETS, KnownSet
from fieldmark.data.sources.listing import entries_of, list_folder, not_readable, some
from fieldmark.data.sources.members import is_archive
from fieldmark.data.sources.named import load_named
from fieldmark.errors import SourceError, closest
from fieldmark.progress import Progress
from fieldmark.types import Sample

Row = tuple[str, str] | tuple[str, str, str]

_KINDS: Final = (
    "a folder of class folders, a folder of train/ val/ [test/] with class folders, a zip or tar "
    "of either, a CSV (path,label[,split]), a folder of IDX files, hf:ORG/NAME, or a known name: "
    + ", ".join(KNOWN_SETS)
)


def scan(
    source: str | Path | KnownSet | Manifest | Iterable[Row | Sample],
    *,
    depth: int = 1,
    progress: Progress = SILENT,
) -> Manifest:
    """Find the pictures of `source` and their labels; samples carry the part the source gives them.

    Headers are looked at, pixels are not: what is damaged further down shows when it is decoded.
    The order depends on names alone, not on the file system. What is not on this machine yet is
    downloaded, and told of before.

    Args:
        depth: of class folders: the class is the folder so many levels below the source, or below
            train/, val/, test/.

    Raises:
        SourceError: there are no labelled pictures to be found; the message says why.
        DownloadError: a known data set is not to be had.
    """
    if isinstance(source, (str, os.PathLike)):
        return _scan_path(os.fspath(source), depth, progress)
    if isinstance(source, KnownSet):
        return _scan_known(source, depth, progress)
    _check_has_folders(depth, type(source).__name__)
    if isinstance(source, Manifest):
        return source
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        return _scan_rows(source, progress)
    raise SourceError(
        "this is not a source of pictures",
        given=f"{source!r} ({type(source).__name__})",
        valid=f"{_KINDS}; or a list of (path, label) or (path, label, part)",
        fix="name a folder",
    )


def _scan_path(text: str, depth: int, progress: Progress) -> Manifest:
    if not text.strip():
        raise SourceError("no source was given", valid=_KINDS, fix="name a folder of pictures")
    # Not Path.expanduser, which raises for the home of somebody who does not exist.
    path = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111
    try:
        if path.is_dir():
            return _scan_folder(path.resolve(), depth, progress)
        if path.is_file():
            return _scan_file(path, depth, progress)
        there = path.exists()
    except OSError as error:
        raise not_readable(path, error) from error
    if there:
        raise SourceError(
            "this is neither a folder nor a file", given=path, valid=_KINDS, fix="name a folder"
        )
    if text in KNOWN_SETS:
        return _scan_known(KNOWN_SETS[text], depth, progress)
    if text.startswith(HUB_PREFIX):
        _check_has_folders(depth, text)
        return scan_hub(text, progress)
    raise _missing(text, path)


def _scan_file(path: Path, depth: int, progress: Progress) -> Manifest:
    if is_archive(path):
        return _scan_archive(path, depth, progress)
    _check_has_folders(depth, path)
    if path.suffix.lower() == ".csv":
        return read_manifest(path, progress=progress)
    fix = _folder_meant(path)
    if path.suffix.lower() in (".7z", ".rar") or ".tar." in path.name:
        fix = "unpack it, and name the folder it unpacks to"
    elif "idx" in path.name.lower():
        fix = f"name the folder that holds the IDX files: {path.parent}"
    raise SourceError("one file is not a source of pictures", given=path, valid=_KINDS, fix=fix)


def _folder_meant(path: Path) -> str:
    """What to do for whoever named one picture; the folder it lies in is as a rule one class."""
    folder, above = path.parent, path.parent.parent
    try:
        if entries_of(folder)[0]:
            return f"name the folder: {folder}"
        siblings, files = entries_of(above)
    except OSError:
        return f"name the folder: {folder}"
    if len(siblings) > 1 and not files:
        if above.name.lower() in PART_WORDS:
            above = above.parent
        return f"name the folder that holds the class folders: {above}"
    return (
        "name the folder that holds one folder of pictures for each class; `fieldmark predict RUN "
        "PICTURE` takes one picture"
    )


def _scan_archive(path: Path, depth: int, progress: Progress) -> Manifest:
    sha256 = content_keys([str(path)], progress)[0]
    if sha256 is None:
        raise SourceError(
            "this archive cannot be read", given=path, fix="check its permissions, or copy it again"
        )
    return _scan_unpacked(unpack(path, sha256, progress), depth, progress)


def _scan_unpacked(unpacked: Unpacked, depth: int, progress: Progress) -> Manifest:
    top, passed = find_top(unpacked.folder, depth)
    manifest = _scan_folder(top, depth, progress)
    notes = [*manifest.notes, f"Unpacked, the pictures lie in {unpacked.folder}."]
    if passed:
        notes.append(f"Not looked at, lying outside the class folders: {some(passed)}.")
    left_out = (*unpacked.left_out, *manifest.left_out)
    return replace(manifest, left_out=left_out, notes=tuple(notes))


def _scan_known(known: KnownSet, depth: int, progress: Progress) -> Manifest:
    if known.kind == "archive":
        if is_prepared(known):
            unpacked = read_unpacked(prepared_folder(known), known.files[0].name)
        else:
            unpacked = unpack(fetch_files(known, progress)[0], known.files[0].sha256, progress)
        return _scan_unpacked(unpacked, depth, progress)
    _check_has_folders(depth, known.name)
    pictures = load_named(known.name, progress)
    samples = tuple(
        Sample(f"{known.name}#{i}", label, part)
        for i, (label, part) in enumerate(zip(pictures.labels, pictures.parts, strict=True))
    )
    is_grey, side = pictures.images.ndim == 3, min(pictures.images.shape[1:3])
    return Manifest(samples, pictures.class_names, (), (), all_grey=is_grey, typical_side_px=side)


def _check_has_folders(depth: int, source: object) -> None:
    """Raise SourceError for a depth where there are no class folders."""
    if depth != 1:
        raise SourceError(
            "depth says how deep the class folders lie, and this source has none",
            given=f"depth {depth}, {source}",
            valid="a depth for a folder, a zip or a tar of class folders",
            fix="leave --depth (data.depth) out",
        )


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


def _scan_folder(root: Path, depth: int, progress: Progress) -> Manifest:
    if (idx_root := _find_idx_root(root, list_folder(root)[0])) is not None:
        _check_has_folders(depth, idx_root)
        return _scan_idx(idx_root)
    found = find_in_folders(root, depth)
    # One file may be reached through several links, and must not land in two parts.
    samples, said = take_groups_beside(root, found.samples)
    kept, duplicates, notes = merge_duplicates(samples)
    return build_manifest(
        kept,
        given=str(root),
        class_names=found.class_names,
        left_out=(*found.left_out, *duplicates),
        notes=(*found.notes, *said, *notes),
        progress=progress,
    )


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
        folders, files = entries_of(parent)
        siblings = [*folders, *(name for name in files if _may_be_source(name))]
    except OSError:
        siblings = []
    fix = f"check the spelling; {parent} has {some(siblings) if siblings else 'no folders'}"
    if near := closest(absent, siblings):
        fix = f"did you mean {parent / near}?"
    elif near := closest(text, KNOWN_SETS):
        fix = f"did you mean the data set {near!r}?"
    return SourceError(
        "there is no such folder, file or data set", given=text, valid=_KINDS, fix=fix
    )


def _may_be_source(name: str) -> bool:
    return name.lower().endswith(".csv") or is_archive(Path(name))
