"""All that a check came to, as a page, a table and a terminal show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fieldmark.data.check.copies import Copies, compare, uncompared
from fieldmark.data.check.duplicates import find_duplicates
from fieldmark.data.check.findings import (
    KINDS,
    STRICT,
    Finding,
    Kind,
    find_left_out,
    find_places_passed_over,
    in_order,
)
from fieldmark.data.check.looks import LOOK_SIDE_PX, MIN_NEAR_PX, Look, look_at
from fieldmark.data.check.oddities import (
    Seen,
    find_blank,
    find_class_sizes,
    find_odd_modes,
    find_odd_sizes,
    find_outliers,
    find_wrong_endings,
    seen_of,
)
from fieldmark.data.manifest import Manifest
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import PictureError
from fieldmark.progress import Progress


@dataclass(frozen=True)
class Checked:
    """A data set that was looked at.

    Attributes:
        looks: without signatures, which were compared and dropped.
        findings: the most harmful first.
        mean, std: of R, G and B over all pictures, each with the same weight, on the scale where
            white is 1, at a short side of 96 px.
        sides: the smallest, the median and the largest short side, px.
        notes: what was not done, in sentences.
    """

    manifest: Manifest
    looks: Sequence[Look | PictureError]
    copies: Copies
    findings: tuple[Finding, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sides: tuple[int, int, int]
    notes: tuple[str, ...]

    def by_kind(self) -> Mapping[Kind, tuple[Finding, ...]]:
        """The findings of each kind that was found, the most harmful kind first."""
        grouped: dict[Kind, list[Finding]] = {}
        for finding in self.findings:
            grouped.setdefault(finding.kind, []).append(finding)
        return {kind: tuple(found) for kind, found in grouped.items()}

    @property
    def num_looked_at(self) -> int:
        """Pictures that could be read."""
        return sum(isinstance(look, Look) for look in self.looks)

    @property
    def num_serious(self) -> int:
        """Leaks, label conflicts and unreadable files."""
        return sum(finding.kind in STRICT for finding in self.findings)


def check_manifest(manifest: Manifest, progress: Progress) -> Checked:
    """Look at every picture of a manifest, compare them, and gather what is wrong or odd."""
    samples = manifest.samples
    copies, looks = compare(look_at([sample.path for sample in samples], progress), progress)
    seen = seen_of(samples, looks)
    broken = [
        Finding("unreadable", sample.path, sample.label, sample.part, detail=look.problem)
        for sample, look in zip(samples, looks, strict=True)
        if isinstance(look, PictureError)
    ]
    blank = find_blank(seen)
    is_blank = {finding.path for finding in blank}
    # A blank page is an extreme of brightness and contrast; once told is enough.
    rest = [(sample, look) for sample, look in seen if sample.path not in is_blank]
    findings = in_order(
        (
            *find_duplicates(samples, copies),
            *find_left_out(manifest.left_out),
            *broken,
            *find_wrong_endings(seen),
            *blank,
            *find_class_sizes(manifest),
            *find_odd_sizes(seen),
            *find_odd_modes(seen),
            *find_outliers(rest),
            *find_places_passed_over(manifest.notes),
        )
    )
    assert set(KINDS) >= {finding.kind for finding in findings}
    mean, std = _mean_std(seen)
    short = sorted(min(look.width, look.height) for _, look in seen) or [0]
    return Checked(
        manifest=manifest,
        looks=looks,
        copies=copies,
        findings=findings,
        mean=mean,
        std=std,
        sides=(short[0], short[len(short) // 2], short[-1]),
        notes=_notes(copies),
    )


def _mean_std(seen: Seen) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of all pixels together, from the figures of each picture."""
    if not seen:
        return (0.0,) * 3, (0.0,) * 3
    mean_nc = np.array([look.mean for _, look in seen])
    std_nc = np.array([look.std for _, look in seen])
    mean = mean_nc.mean(0)
    variance = (std_nc**2 + mean_nc**2).mean(0) - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist())


def _notes(copies: Copies) -> tuple[str, ...]:
    notes = []
    if copies.num_small:
        notes.append(
            f"{counted(copies.num_small, 'picture')} with a short side below {MIN_NEAR_PX} px: "
            "of these, copies are found that have the same pixels, not near-duplicates."
        )
    if copies.num_uncompared:
        notes.append(uncompared(copies))
    if copies.num_untried:
        notes.append(
            f"{counted(copies.num_untried, 'pair')} of pictures much alike were not compared in "
            "detail, being too many: a few cropped or turned copies may be missing."
        )
    return tuple(notes)


MEASURED_AT: Final = f"at {LOOK_SIDE_PX} px short side, if larger"
