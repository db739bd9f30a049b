"""Pictures that are there more than once: the same ones, and nearly the same.

Three sieves, each finer and dearer than the one before: 64 bits of a perceptual hash, 64 grey
cells, and the details of a small grey picture, as it is or laid onto the other. Only the last one
decides, so that two pictures of one kind of thing are not taken for copies. What each sieve lets
through was chosen by measurement; docs/check.md has the figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
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
from fieldmark.data.check.looks import Look, Pixels
from fieldmark.data.check.marks import Marks
from fieldmark.data.sources.candidates import counted
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
# Every pair is looked at once: minutes for so many pictures (docs/check.md), hours for ten times.
MAX_COMPARED: Final = 200_000
_TABLE: Final = 2**19  # cells of the table of all pairs that are in memory at once: 4 MB
_PAIRS_AT_ONCE: Final = 1_000
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
        num_uncompared: pictures that were not asked either, as there are more than MAX_COMPARED.
    """

    nodes: tuple[tuple[int, ...], ...]
    near: Mapping[int, tuple[int, ...]]
    num_small: int
    num_untried: int
    num_uncompared: int = 0

    def together(self) -> tuple[tuple[int, ...], ...]:
        """Sets of pictures that copies of copies connect; those that stand alone are in none."""
        result: list[tuple[int, ...]] = []
        seen: set[int] = set()
        for first in range(len(self.nodes)):
            if first not in seen:
                chain = self._reach(first)
                seen |= chain
                result.append(tuple(sorted(i for node in chain for i in self.nodes[node])))
        return tuple(pictures for pictures in result if len(pictures) > 1)

    def _reach(self, node: int) -> set[int]:
        """The nodes connected to `node`."""
        found, edge = {node}, {node}
        while edge:
            edge = {x for old in edge for x in self.near.get(old, ())} - found
            found |= edge
        return found


def find_copies(looks: Iterable[Look | PictureError], progress: Progress) -> Copies:
    """Compare every picture with every other. Looks are taken one by one, and not kept."""
    by_key: dict[str, list[int]] = {}
    marks = Marks()
    asked: list[int] = []
    num_small = 0
    for i, look in enumerate(looks):
        if not isinstance(look, Look):
            continue
        num_small += look.signature is None
        if look.key in by_key:
            by_key[look.key].append(i)
            continue
        if look.signature is not None and look.one_colour < _MAX_ONE_COLOUR:
            marks.add(look.signature, is_plain=look.one_colour >= PLAIN_SHARE)
            asked.append(len(by_key))
        by_key[look.key] = [i]
    nodes = tuple(tuple(positions) for positions in by_key.values())
    if len(marks) > MAX_COMPARED:
        return Copies(nodes, {}, num_small, 0, sum(len(nodes[node]) for node in asked))
    pairs, num_untried = near_pairs(marks, progress)
    near: dict[int, list[int]] = defaultdict(list)
    for i, j in pairs:
        near[asked[i]].append(asked[j])
        near[asked[j]].append(asked[i])
    in_order = {node: tuple(sorted(others)) for node, others in near.items()}
    return Copies(nodes, in_order, num_small, num_untried)


def compare(
    looks: Iterable[Look | PictureError], progress: Progress
) -> tuple[Copies, list[Look | PictureError]]:
    """Copies, and the looks without their signatures, which are most of what they hold."""
    kept: list[Look | PictureError] = []

    def passing() -> Iterator[Look | PictureError]:
        for look in looks:
            kept.append(look.unsigned if isinstance(look, Look) else look)
            yield look

    return find_copies(passing(), progress), kept


def uncompared(copies: Copies) -> str:
    """What to tell of a set that is too large for `near_pairs`."""
    return (
        f"{counted(copies.num_uncompared, 'picture')} are more than the {MAX_COMPARED:,} that can "
        "be compared in minutes: identical ones are found, near-duplicates are not looked for."
    )


def near_pairs(marks: Marks, progress: Progress) -> tuple[list[tuple[int, int]], int]:
    """Pairs (i, j), i < j, that are nearly the same picture; and how many were not tried."""
    if len(marks) < 2:
        return [], 0
    thumbs, is_plain = marks.thumbs, marks.is_plain
    colours = _Colours(marks.chroma)
    found: list[tuple[int, int]] = []
    rest = _Likeliest()
    with progress.task("comparing the pictures", len(marks)) as task:
        for num_rows, i, j, alike in _alike_in_the_large(marks.hashes, thumbs):
            on_plain = is_plain[i] | is_plain[j]
            needed = np.where(on_plain, MIN_PLAIN_ALIKE, MIN_DETAILS_ALIKE)
            same = _details_alike(thumbs, i, j) >= needed
            fits = colours.fit(i, j)
            found += zip(i[same & fits].tolist(), j[same & fits].tolist(), strict=True)
            moved = ~same & fits & ~on_plain
            rest.add(i[moved], j[moved], alike[moved])
            task.advance(num_rows)
    i, j, num_untried = rest.taken()
    with progress.task("laying pictures onto each other", len(i)) as task:
        for start in range(0, len(i), _ALIGNED_AT_ONCE):
            a, b = (ends[start : start + _ALIGNED_AT_ONCE] for ends in (i, j))
            same = (
                aligned_likeness(thumbs[a].astype(np.float32), thumbs[b].astype(np.float32))
                >= MIN_ALIGNED_ALIKE
            )
            found += zip(a[same].tolist(), b[same].tolist(), strict=True)
            task.advance(len(a))
    return sorted(found), num_untried


class _Likeliest:
    """The MAX_ALIGNMENTS likeliest of all pairs that are added, few more than those in memory."""

    def __init__(self) -> None:
        self._i: list[Ints] = []
        self._j: list[Ints] = []
        self._alike: list[Floats] = []
        self._num_kept = self._num_dropped = 0

    def add(self, i: Ints, j: Ints, alike: Floats) -> None:
        self._i.append(i)
        self._j.append(j)
        self._alike.append(alike)
        self._num_kept += len(i)
        if self._num_kept > 10 * MAX_ALIGNMENTS:
            self._sift()

    def taken(self) -> tuple[Ints, Ints, int]:
        """The pairs, the likeliest first, and how many were left."""
        self._sift()
        return self._i[0], self._j[0], self._num_dropped

    def _sift(self) -> None:
        i, j = np.concatenate(self._i), np.concatenate(self._j)
        alike = np.concatenate(self._alike)
        likeliest = np.argsort(-alike, kind="stable")[:MAX_ALIGNMENTS]
        self._num_dropped += len(i) - len(likeliest)
        self._num_kept = len(likeliest)
        self._i, self._j, self._alike = [i[likeliest]], [j[likeliest]], [alike[likeliest]]


def _alike_in_the_large(
    hashes: NDArray[np.uint64], thumbs: Pixels
) -> Iterator[tuple[int, Ints, Ints, Floats]]:
    """(rows done, i, j, correlation of cells) for the pairs that pass the first two sieves."""
    cells = np.empty((len(thumbs), 64), np.float32)
    for start in range(0, len(thumbs), _PAIRS_AT_ONCE):
        some = thumbs[start : start + _PAIRS_AT_ONCE].astype(np.float32)
        cells[start : start + len(some)] = unit_rows(halved(halved(some)))
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


def _details_alike(thumbs: Pixels, i: Ints, j: Ints) -> Floats:
    """Correlations. Details are three times as large as what they are made of, hence not kept."""
    result = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        which, places = np.unique(np.concatenate([i[part], j[part]]), return_inverse=True)
        details = unit_rows(details_of(thumbs[which].astype(np.float32)))
        result[part] = _products(details, *np.split(places.reshape(-1), 2))
    return result


class _Colours:
    """A red shirt is no copy of a blue one; a photo in grey or in faded colours is one."""

    def __init__(self, chroma: Pixels) -> None:
        self.rows: Floats = chroma.reshape(len(chroma), -1).astype(np.float32) - 128
        self.strength = np.abs(self.rows).mean(1)
        self.length = np.maximum(np.linalg.norm(self.rows, axis=1), 1e-6)

    def fit(self, i: Ints, j: Ints) -> NDArray[np.bool_]:
        alike = _products(self.rows, i, j) / (self.length[i] * self.length[j])
        weaker = np.minimum(self.strength[i], self.strength[j])
        result: NDArray[np.bool_] = (weaker < _NO_COLOUR) | (alike >= _MIN_COLOURS_ALIKE)
        return result
