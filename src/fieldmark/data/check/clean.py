"""The same data set without what a check found: as a manifest; no file is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fieldmark.data.check.copies import Copies
from fieldmark.data.check.duplicates import choose_kept, find_conflicting
from fieldmark.data.check.findings import Finding, Kind
from fieldmark.data.check.looks import Look
from fieldmark.data.manifest import Manifest
from fieldmark.errors import PictureError, SourceError
from fieldmark.types import LeftOut


@dataclass(frozen=True)
class Cleaned:
    """What is left, and how many pictures went for which reason."""

    manifest: Manifest
    went: Mapping[Kind, int]


def clean(
    manifest: Manifest,
    looks: Sequence[Look | PictureError],
    copies: Copies,
    blank: Iterable[Finding],
) -> Cleaned:
    """Leave out what is unreadable or blank, every copy of a picture that has two labels, and of
    all other copies all but one: that in test, else in val, so that a test part stays as published.

    Odd, extreme and few pictures stay: whether they are wrong only their owner knows.

    Raises:
        SourceError: nothing would be left.
    """
    samples = manifest.samples
    empty = {finding.path for finding in blank}
    gone: dict[int, Kind] = {}
    for i, (sample, look) in enumerate(zip(samples, looks, strict=True)):
        if not isinstance(look, Look):
            gone[i] = "unreadable"
        elif sample.path in empty:
            gone[i] = "blank"
    for i in find_conflicting(samples, copies):
        gone.setdefault(i, "label conflict")
    for i, other in choose_kept(samples, copies, gone).instead.items():
        gone[i] = "leak" if samples[i].part != samples[other].part else "duplicate"
    kept = tuple(sample for i, sample in enumerate(samples) if i not in gone)
    if not kept:
        raise SourceError(
            "a clean manifest of this source would be empty",
            given=", ".join(f"{kind}: {n:,}" for kind, n in Counter(gone.values()).items()),
            fix="leave out --write-manifest, and see what is wrong with the pictures",
        )
    left_out = tuple(LeftOut(samples[i].path, gone[i]) for i in sorted(gone))
    used = {sample.label for sample in kept}
    return Cleaned(
        replace(
            manifest,
            samples=kept,
            class_names=tuple(name for name in manifest.class_names if name in used),
            left_out=(*manifest.left_out, *left_out),
        ),
        Counter(gone.values()),
    )
