"""`fieldmark split`: a data set with parts that stay, as folders, links or tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from fieldmark.data.check.quick import QuickCheck, quick_check
from fieldmark.data.left_out import say_left_out
from fieldmark.data.manifest import Manifest, write_manifest
from fieldmark.data.parts.folds import make_folds
from fieldmark.data.parts.groups import group_by as group_by_path
from fieldmark.data.parts.groups import merge
from fieldmark.data.parts.materialize import (
    Form,
    Placed,
    check_room,
    class_folders,
    moved,
    plan_places,
    write_pictures,
)
from fieldmark.data.parts.split import given_parts, notes_on_leaks
from fieldmark.data.parts.split import split as draw_parts
from fieldmark.data.sources.candidates import counted
from fieldmark.data.sources.listing import some
from fieldmark.data.sources.scan import scan
from fieldmark.download import cache_directory
from fieldmark.errors import FieldmarkError, OutputError, RecipeError, SourceError
from fieldmark.evaluation.tables import csv_text
from fieldmark.files import atomic_folder, write_text
from fieldmark.progress import Progress, console_progress
from fieldmark.recipe import group_expression
from fieldmark.rundir import RunDirectory
from fieldmark.types import PARTS

MANIFEST_NAME: Final = "manifest.csv"
AnyForm = Literal["copy", "link", "manifest"]
FRACTION: Final = 0.1  # of val and of test, where nobody says otherwise


@dataclass(frozen=True)
class Partition:
    """Parts that were written.

    Attributes:
        path: the folder, or the CSV.
        manifests: what is in which part; one, or one for each fold. Paths are those of the written
            pictures where pictures were written.
        tables: the CSV of each, in the same order.
    """

    path: Path
    manifests: tuple[Manifest, ...]
    tables: tuple[Path, ...]

    @property
    def manifest(self) -> Manifest:
        """The only one, or that of the first fold."""
        return self.manifests[0]


def split(
    source: str | Path | Manifest | Iterable[Any],
    out: str | Path,
    *,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    form: AnyForm | None = None,
    folds: int | None = None,
    group_by: str = "",
    near_duplicates: bool = True,
    redraw: bool = False,
    keep_parts: bool = False,
    depth: int = 1,
    progress: Progress | None = None,
) -> Partition:
    """Divide a source into train, val and test, and write that down as `out`; nothing of the
    source is touched, and `out` is whole or not there.

    Args:
        source: as `train` takes it.
        out: a folder `out/PART/CLASS/...` (with `_` for `/` in a class) with a `manifest.csv` that
            tells where each picture came from, and a `left_out.csv` where files could not be used;
            or a CSV `path,label,split,group`. With folds, a folder of `fold-1` or `fold-1.csv` and
            so on.
        val, test: shares of each class; None is 0.1. Either may be 0. With folds, `val` is a share
            of what is not tested, and there is no `test`.
        form: "copy" writes pictures, "link" links to them, "manifest" writes tables alone. None
            copies, and writes tables where folds would need as many copies.
        folds: that many splits instead of one; each picture is tested in exactly one.
        group_by: a regular expression; pictures for whose path it finds the same stay together.
        near_duplicates: pictures that look nearly alike stay together.
        redraw: parts that the source gives are forgotten.
        keep_parts: parts that the source gives stay as they are, and nothing is drawn.
        depth: of class folders, as `train` takes it.
        progress: where to report; None reports to the terminal.

    Raises:
        SourceError: no labelled pictures, too few of them, or parts given and neither `redraw` nor
            `keep_parts`.
        RecipeError: words that make no sense, alone or together.
        OutputError: `out` is there already, lies in the source, or cannot be written.
    """
    progress = progress or console_progress()
    out = Path(out).absolute()
    form = form or ("copy" if folds is None else "manifest")
    group_expression(group_by)
    _check_words(val, test, folds, seed, redraw=redraw, keep_parts=keep_parts)
    _check_out(out, source, form, folds)

    manifest = scan(source, depth=depth, progress=progress)
    _check_given(manifest, redraw=redraw, keep_parts=keep_parts)
    if form != "manifest":
        _say_other_names(manifest, out if folds is None else out / "fold-N", progress)
    if not keep_parts:
        samples = tuple(replace(sample, part="") for sample in manifest.samples)
        manifest = replace(manifest, samples=samples)
    val, test = FRACTION if val is None else val, FRACTION if test is None else test
    shares: tuple[float, ...] = ()
    if not keep_parts:
        one_fold = 1 / max(2, folds or 2)
        shares = (1 - val - test, val, test) if folds is None else (1 - one_fold, one_fold)
    manifest, quick = _with_groups(manifest, group_by, near_duplicates, shares, progress)
    drawn: tuple[Manifest, ...]
    if keep_parts:
        notes = (*manifest.notes, "The source's parts are kept.", *notes_on_leaks(manifest.samples))
        drawn = (replace(manifest, notes=notes),)
    elif folds is not None:
        drawn = make_folds(manifest, folds, val_fraction=val, seed=seed)
    else:
        drawn = (
            draw_parts(manifest, val_fraction=val, test_fraction=test, seed=seed, needs_val=False),
        )
    for note in (*drawn[0].notes, *_notes_on_films(quick, drawn)):
        progress.say(note)

    try:
        if form == "manifest":
            _say_where_they_stay(manifest, "the table names", progress)
            done = _write_tables(drawn, out, with_folds=folds is not None)
        else:
            if form == "link":
                _say_where_they_stay(manifest, "the links lead to", progress)
            done = _write_folders(drawn, out, form, with_folds=folds is not None, progress=progress)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}; what was written is removed again",
            given=out,
            fix="check the permissions and the free space, or choose another place",
        ) from error
    except (KeyboardInterrupt, FieldmarkError):
        progress.say(f"nothing is left of what was begun: there is no {out}")
        raise
    say_left_out(
        done.manifest.left_out, progress, run=None if form == "manifest" else RunDirectory(out)
    )
    return done


def _write_tables(drawn: Sequence[Manifest], out: Path, *, with_folds: bool) -> Partition:
    if not with_folds:
        write_manifest(drawn[0], out)
        return Partition(out, tuple(drawn), (out,))
    names = _fold_names(len(drawn), ".csv")
    with atomic_folder(out) as folder:
        for manifest, name in zip(drawn, names, strict=True):
            write_manifest(manifest, folder / name)
    return Partition(out, tuple(drawn), tuple(out / name for name in names))


def _write_folders(
    drawn: Sequence[Manifest], out: Path, form: Form, *, with_folds: bool, progress: Progress
) -> Partition:
    names = _fold_names(len(drawn), "") if with_folds else ("",)
    plans = [plan_places(manifest.samples) for manifest in drawn]
    check_room(out.parent, plans[0][0], form, times=len(drawn))
    written: list[Manifest] = []
    with atomic_folder(out) as folder:
        for manifest, (placed, gone), name in zip(drawn, plans, names, strict=True):
            there, unread = write_pictures(placed, folder / name, form, progress)
            left_out = [*gone, *unread]
            kept = manifest.without(left_out)
            written.append(replace(kept, samples=moved(there, out / name)))
            _write_origins(there, folder / name / MANIFEST_NAME)
    tables = tuple(out / name / MANIFEST_NAME for name in names)
    return Partition(out, tuple(written), tables)


def _write_origins(placed: Sequence[Placed], target: Path) -> None:
    """`path,label,split,group,source`: each picture from the table's own folder, and the picture it
    was. `train` takes this table like any other."""
    rows = sorted(
        (item.name, item.sample.label, item.sample.part, item.sample.group, _full(item.sample.path))
        for item in placed
    )
    write_text(target, csv_text([("path", "label", "split", "group", "source"), *rows]))


def _full(path: str) -> str:
    return str(Path(path).absolute()) if os.path.lexists(path) else path


def _fold_names(num_folds: int, ending: str) -> tuple[str, ...]:
    digits = len(str(num_folds))
    return tuple(f"fold-{number:0{digits}d}{ending}" for number in range(1, num_folds + 1))


def _with_groups(
    manifest: Manifest,
    pattern: str,
    near_duplicates: bool,
    shares: Sequence[float],
    progress: Progress,
) -> tuple[Manifest, QuickCheck | None]:
    samples, notes = manifest.samples, list(manifest.notes)
    quick = None
    if pattern:
        samples, said = group_by_path(samples, pattern)
        notes += said
    if near_duplicates:
        quick = quick_check(replace(manifest, samples=samples), progress, shares=shares)
        samples = merge(samples, quick.together)
        notes += [line for line in quick.warnings if line.startswith(("WARNING", "note"))]
    return replace(manifest, samples=samples, notes=tuple(notes)), quick


def _notes_on_films(quick: QuickCheck | None, drawn: Sequence[Manifest]) -> list[str]:
    """What became of the chains that had to be cut."""
    if quick is None or not (apart := max(quick.num_apart(m.samples) for m in drawn)):
        return []
    most = ", in the worst of the folds" if len(drawn) > 1 else ""
    return [
        f"WARNING: {counted(apart, 'pair')} of pictures nearly alike: one in another part than "
        f"the other{most}."
    ]


def _say_other_names(manifest: Manifest, out: Path, progress: Progress) -> None:
    """Tell of classes whose folders have other names; refuses classes that cannot have any."""
    folders = class_folders(manifest.class_names)
    others = [f"{label!r} in {name}/" for label, name in folders.items() if name != label]
    if others:
        progress.say(
            f"Folders have no / or \\ in their names: {some(others)}. {out / MANIFEST_NAME} keeps "
            "the names of the classes; train on it to have them."
        )


def _say_where_they_stay(manifest: Manifest, what: str, progress: Progress) -> None:
    """Unpacked archives and downloads lie in the cache, which people clear."""
    cache = cache_directory()
    num_cached = sum(Path(s.path).is_relative_to(cache) for s in manifest.samples)
    if num_cached:
        progress.say(
            f"WARNING: {what} {counted(num_cached, 'picture')} in the cache, {cache}; they are "
            "gone when it is cleared. --copy makes the result independent of it."
        )


def _check_words(
    val: float | None,
    test: float | None,
    folds: int | None,
    seed: int,
    *,
    redraw: bool,
    keep_parts: bool,
) -> None:
    if seed < 0:
        raise RecipeError(
            "a seed is no number below 0", given=seed, valid="0, 1, 2 ...", fix="--seed 0"
        )
    drawing = {"val": val, "test": test, "folds": folds}
    given = [f"--{word} {value:g}" for word, value in drawing.items() if value is not None]
    clash = None
    if redraw and keep_parts:
        clash = "--redraw --keep-parts", "parts are forgotten, or they are kept"
    elif keep_parts and given:
        clash = f"--keep-parts {' '.join(given)}", "--keep-parts draws nothing"
    elif folds is not None and test is not None:
        clash = f"--folds {folds} --test {test:g}", f"each of {folds} folds tests 1/{folds}"
    if clash:
        raise RecipeError(
            "these options contradict each other", given=clash[0], valid=clash[1], fix="drop one"
        )


def _check_out(out: Path, source: object, form: str, folds: int | None) -> None:
    if os.path.lexists(out):
        raise OutputError(
            "this is there already, and was not touched",
            given=out,
            fix="choose another name, or remove it yourself",
        )
    one_table = form == "manifest" and folds is None
    if one_table and out.suffix.lower() != ".csv":
        raise OutputError(
            "a table is written as .csv, and read again by that",
            given=out,
            valid="NAME.csv",
            fix=f"for example {out.with_suffix('.csv')}" if out.name else None,
        )
    if isinstance(source, str | os.PathLike) and not one_table:
        folder = Path(source).resolve()
        if folder.is_dir() and out.parent.resolve().is_relative_to(folder):
            raise OutputError(
                "the result would lie in the source, and be part of it the next time",
                given=f"{out} in {folder}",
                valid="a place outside the source",
                fix=f"for example {folder.with_name(folder.name + '-split')}",
            )


def _check_given(manifest: Manifest, *, redraw: bool, keep_parts: bool) -> None:
    parts = {sample.part for sample in manifest.samples}
    has_parts = bool(parts & {"val", "test"})
    if keep_parts and not has_parts:
        raise SourceError(
            "--keep-parts needs a source with parts",
            given=f"parts: {', '.join(sorted(parts - {''})) or 'none'}",
            valid="train/ with val/ or test/, or a CSV with a column split",
            fix="leave it out: parts are drawn then",
        )
    if keep_parts:
        given_parts(manifest)  # refuses what cannot be trained on
    if has_parts and not redraw and not keep_parts:
        counts = ", ".join(
            f"{part} {len(found):,}" for part in PARTS if (found := manifest.of_part(part))
        )
        raise SourceError(
            "this source has parts already",
            given=counts,
            valid="--redraw forgets them and draws anew from all pictures; --keep-parts writes "
            "them as they are",
            fix="add one of the two",
        )
