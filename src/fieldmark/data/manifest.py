"""The table of samples, how it is put together from candidates, and its CSV.

Every candidate ends up in exactly one place: found = used + left out.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from fieldmark.data.pictures import NO_SUCH_FILE, Probe, is_named_locator, probe_pictures
from fieldmark.data.sources.candidates import (
    check_all_or_no_parts,
    check_class_names,
    check_labels,
    check_train_knows_all,
    counted,
    merge_duplicates,
    part_of_word,
    summary_of,
)
from fieldmark.data.table import COLUMNS, read_table
from fieldmark.errors import PictureError, SourceError
from fieldmark.files import write_text
from fieldmark.progress import Progress, Silent
from fieldmark.types import LeftOut, Part, Sample

SILENT: Final = Silent()
_WRITTEN_BEFORE: Final = COLUMNS[:3]  # until there were groups


@dataclass(frozen=True, slots=True)
class Manifest:
    """The samples of a source. Immutable: every change gives a new one.

    Attributes:
        class_names: in the order of the network's outputs. A class may have lost its pictures.
        left_out: what was found and not used.
        notes: sentences the user should be told.
        all_grey: no picture has colour.
        typical_side_px: median short side.

    Raises:
        SourceError: no picture, or a label that is no text or no class. A single class is well:
            a source may be there to be evaluated or looked at.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    all_grey: bool
    typical_side_px: int

    def __post_init__(self) -> None:
        check_labels((sample.path, sample.label) for sample in self.samples)
        check_class_names(self.class_names)
        if not self.samples:
            raise SourceError("there is no picture", fix="give at least a few for each class")
        unknown = {sample.label for sample in self.samples} - set(self.class_names)
        if unknown:
            raise SourceError(
                "a label is not among the classes",
                given=sorted(unknown),
                valid=self.class_names,
                fix="correct the label, or add it to the classes",
            )

    def of_part(self, part: Part | Literal[""]) -> tuple[Sample, ...]:
        """The samples of `part`, in the manifest's order."""
        return tuple(sample for sample in self.samples if sample.part == part)

    def count_by_class(self, part: Part | Literal[""] | None = None) -> dict[str, int]:
        """Pictures of each class, in class order, zeros included. None counts every part."""
        counts = Counter(s.label for s in self.samples if part is None or s.part == part)
        return {name: counts[name] for name in self.class_names}

    def without(self, left_out: Iterable[LeftOut]) -> Manifest:
        """Drop samples that turned out unreadable, and name them in `left_out`.

        The classes stay, in number and order, even one that lost its last picture: a network may
        have been built for them. A note tells of it.

        Raises:
            SourceError: a part lost all its pictures.
        """
        dropped = {item.path: item for item in left_out}
        kept = tuple(sample for sample in self.samples if sample.path not in dropped)
        lost_parts = {s.part for s in self.samples} - {s.part for s in kept}
        if lost_parts:
            of_part = f" in the {'/'.join(sorted(lost_parts))} part" if any(lost_parts) else ""
            if all(item.reason == NO_SUCH_FILE for item in dropped.values()):
                raise _not_there(f"no picture{of_part} is where it was", [*dropped.values()])
            raise SourceError(
                f"no picture can be read{of_part}",
                given=summary_of([*dropped.values()]),
                fix="replace the damaged files",
            )
        lost_names = {s.label for s in self.samples} - {s.label for s in kept}
        note = f"No picture of {', '.join(sorted(lost_names))} can be read; the class stays, empty."
        return replace(
            self,
            samples=kept,
            left_out=(*self.left_out, *dropped.values()),
            notes=(*self.notes, note) if lost_names else self.notes,
        )

    def renamed(self, class_names: Sequence[str]) -> Manifest:
        """The same classes in the same order under new names; no names at all change nothing.

        Raises:
            SourceError: not as many names as classes, or a name twice or empty.
        """
        names = tuple(class_names)
        if not names:
            return self
        if len(names) != len(self.class_names):
            raise SourceError(
                "there must be one new name for each class",
                given=f"{len(names)} names for {len(self.class_names)} classes",
                valid=f"names for, in this order: {', '.join(self.class_names)}",
                fix="name all of them, or none",
            )
        new = dict(zip(self.class_names, names, strict=True))
        check_class_names(names)
        samples = tuple(replace(sample, label=new[sample.label]) for sample in self.samples)
        return replace(self, samples=samples, class_names=names)


def build_manifest(
    candidates: Sequence[Sample],
    *,
    given: str,
    class_names: Iterable[str] = (),
    left_out: Iterable[LeftOut] = (),
    notes: Iterable[str] = (),
    progress: Progress = SILENT,
) -> Manifest:
    """Look at every candidate's header, leave out what is no picture, put the classes in order.

    Args:
        given: the source, for errors.
        class_names: classes known to exist even if no candidate is left of them.

    Raises:
        SourceError: no pictures, or a class that train lacks.
    """
    check_labels((sample.path, sample.label) for sample in candidates)
    kept: list[Sample] = []
    probes: list[Probe] = []
    dropped: list[LeftOut] = list(left_out)
    found = probe_pictures([sample.path for sample in candidates], progress)
    for sample, probe in zip(candidates, found, strict=True):
        if isinstance(probe, PictureError):
            dropped.append(LeftOut(sample.path, probe.problem))
        else:
            kept.append(sample)
            probes.append(probe)
    if dropped and not kept and all(item.reason == NO_SUCH_FILE for item in dropped):
        raise _not_there(f"no picture of this source is there: {given}", dropped)
    if not kept:
        raise SourceError(
            "there are no pictures in this source",
            given=f"{given}: {summary_of(dropped) if dropped else 'nothing in it'}",
            fix="put pictures (JPEG, PNG, WebP, GIF, BMP, TIFF ...) there, or name another source",
        )
    used = {sample.label for sample in kept}
    empty = sorted({*class_names, *(sample.label for sample in candidates)} - used)
    check_train_knows_all(kept, given)
    told = list(notes)
    if empty:
        told.append(f"Left out, having no pictures: {', '.join(empty)}.")
    return Manifest(
        samples=tuple(kept),
        class_names=tuple(sorted(used)),
        left_out=tuple(dropped),
        notes=tuple(told),
        all_grey=all(probe.is_grey for probe in probes),
        typical_side_px=round(statistics.median(min(p.width, p.height) for p in probes)),
    )


def _not_there(problem: str, gone: Sequence[LeftOut]) -> SourceError:
    """Moved, deleted, unpacked in a cache that was cleared, or links that lead nowhere."""
    first = Path(gone[0].path)
    if first.is_symlink():
        fix = f"these are links; bring back what they lead to, as {first.readlink()}, or link anew"
    else:
        fix = (
            "bring them back; or name the folder, table or archive that holds them now (to "
            "evaluate a run: fieldmark evaluate RUN SOURCE)"
        )
    return SourceError(problem, given=summary_of(gone), fix=fix)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write `path,label,split,group` as UTF-8 with absolute paths; `read_manifest` gives it back.

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample in manifest.samples:
        path_shown = sample.path
        if not is_named_locator(sample.path):
            path_shown = str(Path(sample.path).absolute())
        writer.writerow((path_shown, sample.label, sample.part, sample.group))
    write_text(Path(path), text.getvalue())


def read_manifest(path: str | Path, *, progress: Progress = SILENT) -> Manifest:
    """Read a CSV with the columns `path,label[,split][,group]`, in any order, and look at its
    pictures.

    Paths are relative to the CSV's folder. Rows that cannot be used are left out and named.

    Raises:
        SourceError: not such a CSV, no row, all files missing, only some rows with a split.
    """
    path = Path(path)
    base = path.absolute().parent
    table = read_table(path)
    header = table.header
    where = {name: header.index(name) for name in COLUMNS if name in header}
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    for line, row in table.rows:
        if len(row) != len(header):
            reason = f"line {line}: {len(row)} values, the header has {len(header)}"
            if len(row) > len(header):
                reason += f' (put "quotes" around a text with a {table.separated_by})'
            left_out.append(LeftOut(row[0] or path.name, reason))
            continue
        name, label = row[where["path"]].strip(), row[where["label"]].strip()
        if not name or not label:
            missing = "path" if not name else "label"
            left_out.append(LeftOut(name or path.name, f"line {line}: no {missing}"))
            continue
        word = row[where["split"]].strip() if "split" in where else ""
        group = row[where["group"]].strip() if "group" in where else ""
        samples.append(_sample_of(name, label, word, group, base, f"{path}, line {line}"))
    check_all_or_no_parts(samples, str(path))
    kept, duplicates, notes = merge_duplicates(samples)
    notes += table.notes
    manifest = _build_from_rows(kept, path, base, [*left_out, *duplicates], notes, progress)
    missing_files = sum(item.reason == NO_SUCH_FILE for item in manifest.left_out)
    if missing_files:
        note = f"{counted(missing_files, 'row')} left out: no such file (paths relative to {base})."
        manifest = replace(manifest, notes=(*manifest.notes, note))
    return manifest


def read_samples(path: str | Path) -> tuple[Sample, ...]:
    """The samples that `write_manifest` wrote, to the letter.

    The files are not looked at, as `read_manifest` would: those a run was trained on may be gone,
    or on another machine, and that is no reason not to evaluate.

    Raises:
        SourceError: the file is not as it was written.
    """
    path = Path(path)
    base = path.absolute().parent
    table = read_table(path)
    odd = [line for line, row in table.rows if len(row) != len(table.header)]
    if table.header not in (COLUMNS, _WRITTEN_BEFORE) or odd:
        raise SourceError(
            f"line {odd[0]} has not as many values as the header" if odd else "a column is missing",
            given=path,
            valid=",".join(COLUMNS),
            fix="get the file anew",
        )
    return tuple(
        _sample_of(name, label, word, "".join(group), base, f"{path}, line {line}")
        for line, (name, label, word, *group) in table.rows
    )


def _sample_of(name: str, label: str, word: str, group: str, base: Path, where: str) -> Sample:
    full = name if is_named_locator(name) else str(base / name)
    return Sample(full, label, part_of_word(word, where), group)


def _build_from_rows(
    kept: Sequence[Sample],
    path: Path,
    base: Path,
    left_out: Sequence[LeftOut],
    notes: Sequence[str],
    progress: Progress,
) -> Manifest:
    try:
        return build_manifest(
            kept, given=str(path), left_out=left_out, notes=notes, progress=progress
        )
    except SourceError:
        # Nothing found at all is nearly always a table that was moved away from its pictures.
        found = probe_pictures([sample.path for sample in kept], SILENT)
        reasons = {p.problem if isinstance(p, PictureError) else "" for p in found}
        if reasons == {NO_SUCH_FILE}:
            first = [LeftOut(sample.path, NO_SUCH_FILE) for sample in kept]
            raise SourceError(
                "none of the pictures in this CSV is there",
                given=f"{path}: {summary_of(first)}",
                valid=f"full paths, or paths relative to {base}",
                fix="move the CSV back beside its pictures, or correct its paths",
            ) from None
        raise
