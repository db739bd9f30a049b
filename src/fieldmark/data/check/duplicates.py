"""What copies mean: a leak between parts, a conflict of labels, or one picture too many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fieldmark.data.check.copies import Copies
from fieldmark.data.check.findings import Finding, Kind, finding_of
from fieldmark.types import Sample

# Of copies in several parts the one in test stays, so that a published test part stays whole.
_KEEPS: Final = {"test": 0, "val": 1, "": 2, "train": 2}
_NUM_OTHERS: Final = 20  # copies that one finding names


@dataclass(frozen=True)
class Kept:
    """Which of all copies to keep: no two of them are copies of each other, and every other picture
    is a copy of one of them.

    Attributes:
        positions: of the pictures kept.
        instead: of every other picture, the one that is kept instead.
    """

    positions: frozenset[int]
    instead: Mapping[int, int]


def choose_kept(samples: Sequence[Sample], copies: Copies, without: Iterable[int] = ()) -> Kept:
    """Choose among copies: test before val before train, then the first path.

    Args:
        without: positions that are no choice, being left out for another reason.
    """
    excluded = set(without)
    first: dict[int, int] = {}  # of each node, the picture to keep
    for node, positions in enumerate(copies.nodes):
        allowed = [i for i in positions if i not in excluded]
        if allowed:
            first[node] = min(allowed, key=lambda i: _order(samples[i]))
    kept: dict[int, int] = {}
    instead: dict[int, int] = {}
    for node in sorted(first, key=lambda node: _order(samples[first[node]])):
        near = [kept[other] for other in copies.near.get(node, ()) if other in kept]
        if near:
            chosen = min(near, key=lambda i: _order(samples[i]))
        else:
            chosen = kept[node] = first[node]
        for i in copies.nodes[node]:
            if i not in excluded and i != chosen:
                instead[i] = chosen
    return Kept(frozenset(kept.values()), instead)


def find_duplicates(samples: Sequence[Sample], copies: Copies) -> list[Finding]:
    """A finding for every picture that is a copy of one that would be kept; two where it is in
    another part and another class as well."""
    kept = choose_kept(samples, copies)
    firsts = _firsts(samples, copies)
    node_of = {i: node for node, positions in enumerate(copies.nodes) for i in positions}
    findings = []
    for i in sorted(kept.instead):
        sample, node = samples[i], node_of[i]
        same = [j for j in firsts[node] if j != i]
        near = [j for other in copies.near.get(node, ()) for j in firsts[other]]
        others = sorted(same, key=lambda j: _order(samples[j])) + sorted(
            near, key=lambda j: _order(samples[j])
        )
        elsewhere = [j for j in others if samples[j].part != sample.part]
        otherwise = [j for j in others if samples[j].label != sample.label]
        told: list[tuple[Kind, list[int]]] = [("leak", elsewhere), ("label conflict", otherwise)]
        if not elsewhere and not otherwise:
            told = [("duplicate", [kept.instead[i]])]
        for kind, copies_of_it in told:
            if copies_of_it:
                other = copies_of_it[0]
                how = "identical" if node_of[other] == node else "nearly the same"
                detail = f"{how}; {_difference(kind, sample, samples[other])}".removesuffix("; ")
                paths = [samples[j].path for j in copies_of_it[:_NUM_OTHERS]]
                findings.append(finding_of(kind, sample, detail, paths))
    return findings


def find_conflicting(samples: Sequence[Sample], copies: Copies) -> set[int]:
    """Every picture that has a copy with another label."""
    labels = [{samples[i].label for i in positions} for positions in copies.nodes]
    result: set[int] = set()
    for node, positions in enumerate(copies.nodes):
        near = (labels[other] for other in copies.near.get(node, ()))
        around = labels[node].union(*near)
        if len(around) > 1:
            result.update(i for i in positions if around != {samples[i].label})
    return result


def _difference(kind: Kind, sample: Sample, other: Sample) -> str:
    if kind == "leak":
        return f"{sample.part} here, {other.part} there"
    if kind == "label conflict":
        return f"{sample.label} here, {other.label} there"
    return ""


def _firsts(samples: Sequence[Sample], copies: Copies) -> list[list[int]]:
    """Of each node, the first picture of every label and part: enough to see what differs, however
    many copies there are."""
    result = []
    for positions in copies.nodes:
        by_place: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in positions:
            by_place[samples[i].label, samples[i].part].append(i)
        result.append([min(some, key=lambda i: _order(samples[i])) for some in by_place.values()])
    return result


def _order(sample: Sample) -> tuple[int, str]:
    return (_KEEPS[sample.part], sample.path)
