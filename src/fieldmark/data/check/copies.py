"""Pictures that are there more than once: the same ones, and nearly the same.

Three sieves, each finer and dearer than the one before: 64 bits of a perceptual hash, 64 grey
cells, and the details of a small grey picture, as it is or laid onto the other. Only the last one
decides, so that two pictures of one kind of thing are not taken for copies. What each sieve lets
through was chosen by measurement; docs/check.md has the figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fieldmark.data.check.alignment import (
    Floats,
    aligned_likeness,
    details_of,
    halved,
    unit_rows,
)
from fieldmark.data.check.looks import Look, Signature
from fieldmark.errors import PictureError
from fieldmark.progress import Progress

MAX_BITS_APART: Final = 22  # of 64; unrelated pictures are 32 apart on average
MIN_CELLS_ALIKE: Final = 0.7  # correlation of 8x8 cells
MIN_DETAILS_ALIKE: Final = 0.9  # correlation of the details, unmoved
MIN_ALIGNED_ALIKE: Final = 0.85  # the same, once one is laid onto the other
# On plain ground the outline is most of the details, and things of one kind share it: two trousers
# on white can nearly be laid onto each other. There, only what agrees unmoved is a copy.
PLAIN_SHARE: Final = 0.3  # of the pixels have one colour
MIN_PLAIN_ALIKE: Final = 0.93
MAX_ALIGNMENTS: Final = 20_000  # half a millisecond each; the likeliest come first
# A picture of one colour has no details, only the noise of its compression.
_MAX_ONE_COLOUR: Final = 0.98
_TABLE: Final = 2**22  # cells of the table of all pairs that are in memory at once: 32 MB
_PAIRS_AT_ONCE: Final = 20_000
_ALIGNED_AT_ONCE: Final = 512
# Chroma, 0-255: what a change of saturation or a grey copy leaves alike.
_NO_COLOUR: Final = 4.0
_MIN_COLOURS_ALIKE: Final = 0.7

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Copies:
    """Who is a copy of whom. A node is a set of identical pictures; most have one member.

    Attributes:
        nodes: positions of pictures, each set in order. What could not be read is in none.
        near: the nodes that nearly equal a node; both ways. Not transitive: in a film each frame
            is like the next, and the first is not like the last.
        num_small: pictures too small to be asked whether they are nearly another one.
        num_untried: pairs that were alike in the large and not compared in detail, being too many.
    """

    nodes: tuple[tuple[int, ...], ...]
    near: Mapping[int, tuple[int, ...]]
    num_small: int
    num_untried: int

    def together(self, limit: int | None = None) -> tuple[tuple[int, ...], ...]:
        """Sets of pictures that copies of copies connect; those that stand alone are in none.

        Args:
            limit: pictures above which such a chain is cut into sets of one picture with those of
                its copies that are in no other set. None cuts nothing.
        """
        result: list[tuple[int, ...]] = []
        seen: set[int] = set()
        for first in range(len(self.nodes)):
            if first in seen:
                continue
            chain = self._reach(first, None, set())
            seen.update(chain)
            if limit is None or self._count(chain) <= limit:
                result.append(self._pictures(chain))
                continue
            done: set[int] = set()
            for node in sorted(chain):
                if node not in done:
                    star = self._reach(node, 1, done)
                    done.update(star)
                    result.append(self._pictures(star))
        return tuple(pictures for pictures in result if len(pictures) > 1)

    def _reach(self, node: int, steps: int | None, without: set[int]) -> set[int]:
        """The nodes connected to `node`, at most so many steps away."""
        found, edge = {node}, {node}
        while edge and steps != 0:
            edge = {x for old in edge for x in self.near.get(old, ())} - found - without
            found |= edge
            steps = None if steps is None else steps - 1
        return found

    def _count(self, nodes: set[int]) -> int:
        return sum(len(self.nodes[node]) for node in nodes)

    def _pictures(self, nodes: set[int]) -> tuple[int, ...]:
        return tuple(sorted(i for node in nodes for i in self.nodes[node]))


def find_copies(looks: Sequence[Look | PictureError], progress: Progress) -> Copies:
    """Compare every picture with every other."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        if isinstance(look, Look):
            by_key[look.key].append(i)
    nodes = tuple(tuple(positions) for positions in by_key.values())
    signatures: list[Signature] = []
    plain: list[bool] = []
    asked: list[int] = []
    num_small = 0
    for node, positions in enumerate(nodes):
        look = looks[positions[0]]
        assert isinstance(look, Look)
        if look.signature is None:
            num_small += len(positions)
        elif look.one_colour < _MAX_ONE_COLOUR:
            signatures.append(look.signature)
            plain.append(look.one_colour >= PLAIN_SHARE)
            asked.append(node)
    pairs, num_untried = near_pairs(signatures, plain, progress)
    near: dict[int, list[int]] = defaultdict(list)
    for i, j in pairs:
        near[asked[i]].append(asked[j])
        near[asked[j]].append(asked[i])
    in_order = {node: tuple(sorted(others)) for node, others in near.items()}
    return Copies(nodes, in_order, num_small, num_untried)


def near_pairs(
    signatures: Sequence[Signature], plain: Sequence[bool], progress: Progress
) -> tuple[list[tuple[int, int]], int]:
    """Pairs (i, j), i < j, that are nearly the same picture; and how many were not tried.

    Args:
        plain: of each picture, whether it shows a thing on plain ground.
    """
    if len(signatures) < 2:
        return [], 0
    thumbs = np.stack([signature.thumb for signature in signatures]).astype(np.float32)
    chroma = np.stack([signature.chroma for signature in signatures])
    details = unit_rows(details_of(thumbs))
    is_plain = np.array(plain, bool)
    found: list[tuple[int, int]] = []
    rest_i: list[Ints] = []
    rest_j: list[Ints] = []
    rest_alike: list[Floats] = []
    hashes = np.array([signature.phash for signature in signatures], np.uint64)
    with progress.task("comparing the pictures", len(signatures)) as task:
        for num_rows, i, j, alike in _alike_in_the_large(hashes, thumbs):
            on_plain = is_plain[i] | is_plain[j]
            needed = np.where(on_plain, MIN_PLAIN_ALIKE, MIN_DETAILS_ALIKE)
            same = _products(details, i, j) >= needed
            fits = _colours_fit(chroma, i, j)
            found += zip(i[same & fits].tolist(), j[same & fits].tolist(), strict=True)
            moved = ~same & fits & ~on_plain
            rest_i.append(i[moved])
            rest_j.append(j[moved])
            rest_alike.append(alike[moved])
            task.advance(num_rows)
    i, j = np.concatenate(rest_i), np.concatenate(rest_j)
    likeliest = np.argsort(-np.concatenate(rest_alike), kind="stable")[:MAX_ALIGNMENTS]
    num_untried = len(i) - len(likeliest)
    i, j = i[likeliest], j[likeliest]
    with progress.task("laying pictures onto each other", len(i)) as task:
        for start in range(0, len(i), _ALIGNED_AT_ONCE):
            a, b = (ends[start : start + _ALIGNED_AT_ONCE] for ends in (i, j))
            same = aligned_likeness(thumbs[a], thumbs[b]) >= MIN_ALIGNED_ALIKE
            found += zip(a[same].tolist(), b[same].tolist(), strict=True)
            task.advance(len(a))
    return sorted(found), num_untried


def _alike_in_the_large(
    hashes: NDArray[np.uint64], thumbs: Floats
) -> Iterator[tuple[int, Ints, Ints, Floats]]:
    """(rows done, i, j, correlation of cells) for the pairs that pass the first two sieves."""
    cells = unit_rows(halved(halved(thumbs)))
    num_rows = max(1, _TABLE // len(hashes))
    for start in range(0, len(hashes), num_rows):
        rows = hashes[start : start + num_rows]
        apart = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        i, j = np.nonzero(np.triu(apart <= MAX_BITS_APART, 1))
        alike = _products(cells, i + start, j + start)
        passed = alike >= MIN_CELLS_ALIKE
        yield len(rows), i[passed] + start, j[passed] + start, alike[passed]


def _products(rows: Floats, i: Ints, j: Ints) -> Floats:
    result = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        result[part] = np.einsum("pm,pm->p", rows[i[part]], rows[j[part]])
    return result


def _colours_fit(chroma: NDArray[np.uint8], i: Ints, j: Ints) -> NDArray[np.bool_]:
    """A red shirt is no copy of a blue one; a photo in grey or in faded colours is one."""
    rows = chroma.reshape(len(chroma), -1).astype(np.float32) - 128
    strength = np.abs(rows).mean(1)
    length = np.maximum(np.linalg.norm(rows, axis=1), 1e-6)
    alike = _products(rows, i, j) / (length[i] * length[j])
    result: NDArray[np.bool_] = (np.minimum(strength[i], strength[j]) < _NO_COLOUR) | (
        alike >= _MIN_COLOURS_ALIKE
    )
    return result
