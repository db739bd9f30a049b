"""The part of a check that every training can afford: what would spoil its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fieldmark.data.check.copies import find_copies
from fieldmark.data.check.duplicates import find_duplicates
from fieldmark.data.check.findings import Finding, Kind
from fieldmark.data.check.looks import look_at
from fieldmark.data.check.oddities import find_blank, find_class_sizes, seen_of
from fieldmark.data.manifest import Manifest
from fieldmark.data.sources.candidates import counted
from fieldmark.progress import Progress
from fieldmark.types import PARTS, Sample

MIN_CHAIN: Final = 10
MAX_CHAIN: Final = 0.05  # of all pictures


@dataclass(frozen=True, slots=True)
class QuickCheck:
    """What a training should know beforehand.

    Attributes:
        warnings: one line each, with a count and an example.
        together: positions in the manifest's samples of pictures that are copies, nearly or
            wholly, and must not be drawn into different parts. Copies in parts that the source
            gives are apart already: there, those of each part are a set by themselves.
    """

    warnings: tuple[str, ...]
    together: tuple[tuple[int, ...], ...]


def quick_check(manifest: Manifest, progress: Progress) -> QuickCheck:
    """Look for copies, blank pictures and small classes. Unreadable pictures are passed over:
    decoding them names them anyway. Nothing is changed, parts that the source gives least of all.
    """
    samples = manifest.samples
    looks = look_at([sample.path for sample in samples], progress)
    copies = find_copies(looks, progress)
    found = find_duplicates(samples, copies)
    told: tuple[tuple[Kind, str, str], ...] = (
        ("leak", "in two parts", "the figures will be too good"),
        ("label conflict", "in two classes", "one of the labels is wrong"),
        ("duplicate", "there more than once", "copies stay in one part where parts are drawn"),
    )
    warnings = []
    for kind, where, consequence in told:
        if these := [finding for finding in found if finding.kind == kind]:
            warnings.append(
                f"{'note' if kind == 'duplicate' else 'WARNING'}: "
                f"{counted(len(these), 'picture')} {where}, {consequence}: {_example(these)}."
            )
    if blank := find_blank(seen_of(samples, looks)):
        warnings.append(
            f"WARNING: {counted(len(blank), 'picture')} (almost) all of one colour: "
            f"{blank[0].path}."
        )
    warnings += [f"note: {finding.detail}." for finding in _imbalance(manifest)]
    # A chain that holds a good part of the set could not be drawn into parts as one.
    limit = max(MIN_CHAIN, int(MAX_CHAIN * len(samples)))
    if chains := [chain for chain in copies.together() if len(chain) > limit]:
        longest = max(chains, key=len)
        warnings.append(
            f"WARNING: {counted(len(longest), 'picture')} are a chain in which each is nearly like "
            "the next, as in a film: only the closest are kept in one part. data.group_by, or a "
            f"column 'group', keeps a film whole: {samples[longest[0]].path}."
        )
    if warnings:
        warnings.append(
            "`fieldmark check SOURCE` shows all of them and can write a manifest without them; "
            "--set data.quick_check=false looks for none."
        )
    return QuickCheck(tuple(warnings), _within_parts(samples, copies.together(limit)))


def _within_parts(
    samples: Sequence[Sample], together: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    by_part = (
        tuple(i for i in positions if samples[i].part == part)
        for positions in together
        for part in ("", *PARTS)
    )
    return tuple(positions for positions in by_part if len(positions) > 1)


def _imbalance(manifest: Manifest) -> list[Finding]:
    return [finding for finding in find_class_sizes(manifest) if " to 1" in finding.detail]


def _example(findings: Sequence[Finding]) -> str:
    first = findings[0]
    return f"{first.path} and {first.others[0]}"
