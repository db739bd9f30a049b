"""Copies that must not come into two parts; and chains of them that are too long for one.

Each frame of a film is nearly like the next. As a group a film is drawn whole, unless that leaves a
class nothing to learn from or to test with. Then, and only then, the chain is cut, where the
fewest frames that are nearly alike are parted, and what is parted is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fieldmark.data.check.copies import Copies
from fieldmark.data.parts.draw import MIN_TO_SHARE
from fieldmark.data.parts.groups import merge
from fieldmark.data.parts.placing import count_units, groups_and_singles
from fieldmark.types import PARTS, Sample

MIN_CHAIN: Final = 10  # pictures up to which copies are copies, and no film: never cut


@dataclass(frozen=True)
class Together:
    """Pictures to keep in one part.

    Attributes:
        groups: positions of pictures; each set is of one part, as far as the source gives parts.
        chains: those that had to be cut, the longest first; their pieces are among `groups`.
        parted: pairs of pictures nearly alike that are in two pieces.
    """

    groups: tuple[tuple[int, ...], ...]
    chains: tuple[tuple[int, ...], ...] = ()
    parted: tuple[tuple[int, int], ...] = ()


def keep_together(samples: Sequence[Sample], copies: Copies, shares: Sequence[float]) -> Together:
    """Which copies of copies to draw as one.

    A chain of more than MIN_CHAIN pictures is cut where a class has more of its pictures in it than
    the largest part should hold, or would have fewer than three groups and single pictures: one for
    each part. A chain around one picture that all others are like has nowhere to be cut.

    Args:
        samples: those of "" and train are drawn from; copies in parts that the source gives are
            apart already, and those of each part are a set by themselves.
        shares: of the parts that are drawn; none where nothing is.
    """
    by_part = [
        tuple(i for i in positions if samples[i].part == part)
        for positions in copies.together()
        for part in ("", *PARTS)
    ]
    whole = [positions for positions in by_part if len(positions) > 1]
    shares = [share for share in shares if share > 0]
    pool = [sample for sample in samples if sample.part in ("", "train")]
    sizes = Counter(sample.label for sample in pool)
    node_of = {i: node for node, positions in enumerate(copies.nodes) for i in positions}
    labels: dict[int, Counter[str]] = {}  # of the chains that could be cut
    for number, chain in enumerate(whole):
        drawn = samples[chain[0]].part in ("", "train")
        if (
            shares
            and drawn
            and len(chain) > MIN_CHAIN
            and _can_be_cut(chain, samples, copies, node_of)
        ):
            labels[number] = Counter(samples[i].label for i in chain)
    cut = {
        number
        for number, counts in labels.items()
        if any(count > max(shares) * sizes[name] for name, count in counts.items())
    }
    pieces: dict[int, list[tuple[int, ...]]] = {}
    while True:
        for number in cut - set(pieces):
            name, _ = labels[number].most_common(1)[0]
            most = max(1, int(min(shares) * sizes[name]))
            pieces[number] = cut_chain(whole[number], copies, node_of, samples, most)
        groups = [
            group for number, chain in enumerate(whole) for group in pieces.get(number, [chain])
        ]
        if not set(labels) - cut:
            break
        units = _units(samples, groups)
        poor = {name for name, size in sizes.items() if units[name] < MIN_TO_SHARE <= size}
        longest = {
            max(having, key=lambda number: labels[number][name])
            for name in poor
            if (having := [n for n in labels if n not in cut and name in labels[n]])
        }
        if not longest:
            break
        cut |= longest
    chains = sorted((whole[number] for number in cut), key=lambda chain: (-len(chain), chain))
    kept = tuple(group for group in groups if len(group) > 1)
    return Together(kept, tuple(chains), _parted(samples, kept, chains, copies, node_of))


def cut_chain(
    chain: Sequence[int],
    copies: Copies,
    node_of: Mapping[int, int],
    samples: Sequence[Sample],
    most: int,
) -> list[tuple[int, ...]]:
    """Pieces of at most `most` pictures, or of one picture and its identical copies.

    The strongest ties are kept first (Kruskal's order): strong is a tie between pictures that are
    like the same others. Equal ones go by the paths, so that the order of samples is forgotten.
    """
    members: dict[int, list[int]] = {}
    for i in chain:
        members.setdefault(node_of[i], []).append(i)
    around = {node: {node, *copies.near.get(node, ())} & members.keys() for node in members}
    name_of = {node: min(samples[i].path for i in some) for node, some in members.items()}
    ties = []
    for a, near_a in around.items():
        for b in near_a:
            if name_of[a] < name_of[b]:
                shared = len(near_a & around[b])
                strength = shared / (len(near_a) + len(around[b]) - shared)
                ties.append((-strength, name_of[a], name_of[b], a, b))
    piece_of = {node: [node] for node in members}
    size_of = {node: len(some) for node, some in members.items()}
    for *_, a, b in sorted(ties):
        one, other = piece_of[a], piece_of[b]
        if one is other or size_of[one[0]] + size_of[other[0]] > most:
            continue
        size_of[one[0]] += size_of[other[0]]
        one.extend(other)
        for node in other:
            piece_of[node] = one
    unique = {id(piece): piece for piece in piece_of.values()}
    return [tuple(sorted(i for node in piece for i in members[node])) for piece in unique.values()]


def _can_be_cut(
    chain: Sequence[int], samples: Sequence[Sample], copies: Copies, node_of: Mapping[int, int]
) -> bool:
    groups = {samples[i].group for i in chain}
    if len(groups) == 1 and "" not in groups:
        return False  # whoever made that group wants it whole
    nodes = {node_of[i] for i in chain}
    return not any(nodes <= {node, *copies.near.get(node, ())} for node in nodes)


def _units(samples: Sequence[Sample], groups: Sequence[Sequence[int]]) -> Counter[str]:
    """Groups and single pictures of each class that would be drawn."""
    merged = merge(samples, groups)
    drawn = (sample for sample in merged if sample.part in ("", "train"))
    return count_units(*groups_and_singles(drawn))


def _parted(
    samples: Sequence[Sample],
    groups: Sequence[Sequence[int]],
    chains: Sequence[Sequence[int]],
    copies: Copies,
    node_of: Mapping[int, int],
) -> tuple[tuple[int, int], ...]:
    if not chains:
        return ()
    merged = merge(samples, groups)  # other ties may hold together what was cut
    found = set()
    for chain in chains:
        first: dict[int, int] = {}
        for i in chain:
            first.setdefault(node_of[i], i)
        for node, i in first.items():
            for other in copies.near.get(node, ()):
                j = first.get(other)
                if j is not None and i < j and not (merged[i].group == merged[j].group != ""):
                    found.add((i, j))
    return tuple(sorted(found))
