"""The part of a check that every training can afford: what would spoil its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fieldmark.data.check.copies import compare, uncompared
from fieldmark.data.check.duplicates import find_duplicates
from fieldmark.data.check.findings import Finding, Kind
from fieldmark.data.check.looks import WhileOpen, look_at
from fieldmark.data.check.oddities import find_blank, find_imbalance, seen_of
from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.chains import Together, keep_together
from fieldmark.data.sources.candidates import counted
from fieldmark.progress import Progress
from fieldmark.types import Sample

# Pictures of the largest class for one of the smallest, from which accuracy alone misleads: always
# answering the largest is right 3 times in 4.
UNEVEN: Final = 3.0


@dataclass(frozen=True, slots=True)
class QuickCheck:
    """What a training should know beforehand.

    Attributes:
        warnings: one line each, with a count and an example.
        together: positions in the manifest's samples of pictures that are copies, nearly or
            wholly, and must not be drawn into different parts.
        parted: pairs of pictures nearly alike that may be drawn into different parts all the same,
            as a class would be left without one otherwise; a warning counts them.
    """

    warnings: tuple[str, ...]
    together: tuple[tuple[int, ...], ...]
    parted: tuple[tuple[int, int], ...]

    def num_apart(self, samples: Sequence[Sample]) -> int:
        """Of `parted`, how many are in two parts of the same samples, once they were drawn."""
        return sum(samples[i].part != samples[j].part for i, j in self.parted)


def quick_check(
    manifest: Manifest,
    progress: Progress,
    *,
    shares: Sequence[float] = (),
    while_open: WhileOpen | None = None,
) -> QuickCheck:
    """Look for copies, blank pictures and small classes. Unreadable pictures are passed over:
    decoding them names them anyway. Nothing is changed, parts that the source gives least of all.

    Args:
        shares: of the parts that will be drawn; none where nothing is.
        while_open: what else is done with the pictures that are opened.
    """
    samples = manifest.samples
    looked = look_at([sample.path for sample in samples], progress, while_open=while_open)
    copies, looks = compare(looked, progress)
    together = keep_together(samples, copies, shares)
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
    if copies.num_uncompared:
        warnings.append(f"WARNING: {uncompared(copies)}")
    warnings += _on_chains(together, samples)
    if warnings:
        warnings.append(
            "`fieldmark check SOURCE` shows all of them and can write a manifest without them; "
            "--set data.quick_check=false looks for none."
        )
    warnings += [
        f"note: {finding.detail}. Macro F1 counts all classes alike, accuracy does not; "
        "--class-weights balanced or --sampling balanced has training do so too."
        for finding in find_imbalance(manifest, UNEVEN)
    ]
    return QuickCheck(tuple(warnings), together.groups, together.parted)


def _on_chains(together: Together, samples: Sequence[Sample]) -> list[str]:
    if not together.chains:
        return []
    longest = together.chains[0]
    num_others = len(together.chains) - 1
    others = f" and {counted(num_others, 'other chain')}" if num_others else ""
    return [
        f"WARNING: {counted(len(longest), 'picture')} are a chain in which each is nearly like the "
        f"next, as in a film, and hold so much of a class that they cannot all be in one part: "
        f"{samples[longest[0]].path}. They{others} are cut into pieces, and up to "
        f"{counted(len(together.parted), 'pair')} of pictures nearly alike may come into two "
        "parts, which makes the figures too good. What helps is more pictures of that class that "
        "are no frames of the same film; data.group_by, or a column 'group', keeps a film whole."
    ]


def _example(findings: Sequence[Finding]) -> str:
    first = findings[0]
    return f"{first.path} and {first.others[0]}"
