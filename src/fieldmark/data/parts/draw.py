"""The draw of parts: stratified, seeded, groups whole; by the names of files, never by their order.

Each class has random numbers of its own: what one gains or loses leaves the others alone, as long
as no group has pictures of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np

from fieldmark.data.parts.placing import Placing, count_units, groups_and_singles, largest_first
from fieldmark.types import Part, Sample

MIN_TO_SHARE: Final = 3  # one picture for each part; smaller classes are trained on wholly
SPLIT_STREAM: Final = 0
# test before val: of two equal remainders the final figure gets the picture.
_IN_TURN: Final[tuple[Part, ...]] = ("test", "val", "train")
K = TypeVar("K")


def draw(
    pool: Sequence[Sample],
    class_names: Sequence[str],
    fractions: Mapping[Part, float],
    seed: int,
) -> dict[str, Part]:
    """The part of every path in `pool`.

    Of a class without groups each part gets its share within one picture, and at least one where
    there are three. With groups, val and test get theirs within the size of the largest group that
    has the class, and exactly as long as single pictures can make good what groups leave. Where
    groups are few, that every part has a picture of each class comes before its share; with groups
    across classes, that train has.

    Args:
        fractions: of val and test; the rest is for training.
    """
    groups, singles = groups_and_singles(pool)
    units = count_units(groups, singles)
    sizes = Counter(sample.label for sample in pool)
    targets: dict[str, dict[Part, int]] = {
        name: shares(size, fractions) if units[name] >= MIN_TO_SHARE else {"train": size}
        for name, size in sizes.items()
    }
    placing = Placing(targets, units, must="train")
    part_of: dict[str, Part] = {}
    for group, number in largest_first(groups, sizes, seed):
        part = placing.put(Counter(sample.label for sample in group), number)
        part_of |= {sample.path: part for sample in group}
    for class_index, (name, members) in enumerate(by_class(singles, class_names).items()):
        counts = placing.fill(name, len(members)) if members else {}
        parts = [part for part in _IN_TURN for _ in range(counts.get(part, 0))]
        drawn = shuffled(members, SPLIT_STREAM, class_index, seed)
        part_of |= {sample.path: part for sample, part in zip(drawn, parts, strict=True)}
    return part_of


def by_class(samples: Iterable[Sample], class_names: Sequence[str]) -> dict[str, list[Sample]]:
    """The samples of each class by path: the order they came in is forgotten here."""
    grouped: dict[str, list[Sample]] = {name: [] for name in class_names}
    for sample in sorted(samples, key=lambda sample: sample.path):
        grouped[sample.label].append(sample)
    return grouped


def shuffled(samples: list[Sample], stream: int, class_index: int, seed: int) -> list[Sample]:
    """One class in random order; each class and each `stream` has random numbers of its own."""
    order = np.random.default_rng([seed, stream, class_index]).permutation(len(samples))
    return [samples[i] for i in order]


def shares(num_pictures: int, fractions: Mapping[Part, float]) -> dict[Part, int]:
    """How many of a class go to test, val and train: largest remainder, none of them empty."""
    if num_pictures < MIN_TO_SHARE:
        return {"train": num_pictures}
    weights: dict[Part, float] = {"test": fractions["test"], "val": fractions["val"]}
    weights["train"] = 1 - sum(weights.values())
    counts = largest_remainder(num_pictures, weights)
    for part, weight in weights.items():
        if weight > 0 and counts[part] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[part] = 1
    return counts


def largest_remainder(total: int, weights: Mapping[K, float]) -> dict[K, int]:
    """Whole numbers that sum to `total`, each within one of its share (Hamilton's method)."""
    scale = total / sum(weights.values())
    counts = {key: int(weight * scale) for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: counts[key] - weights[key] * scale)
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts
