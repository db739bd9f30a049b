"""The draw of parts: stratified, seeded, groups whole; by the names of files, never by their order.

Each picture has a random number of its own (`lots`). What one class gains or loses leaves the
others alone, as long as no group has pictures of both; within the class it moves two boundaries by
one picture each, so that a picture that was to be tested does not come to be trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from fieldmark.data.parts.lots import Lots
from fieldmark.data.parts.placing import Placing, count_units, groups_and_singles, largest_first
from fieldmark.types import Part, Sample

MIN_TO_SHARE: Final = 3  # one picture for each part; smaller classes are trained on wholly
# test before val: of two equal claims the final figure gets the picture. And val between test and
# train: who leaves one of these for another chooses the best epoch, and no more.
_IN_TURN: Final[tuple[Part, ...]] = ("test", "val", "train")
K = TypeVar("K")


def draw(
    pool: Sequence[Sample],
    class_names: Sequence[str],
    fractions: Mapping[Part, float],
    seed: int,
    purpose: str = "parts",
) -> dict[str, Part]:
    """The part of every path in `pool`.

    Of a class without groups each part gets its share within one picture, and at least one where
    there are three. With groups, val and test get theirs within the size of the largest group that
    has the class, and exactly as long as single pictures can make good what groups leave. Where
    groups are few, that every part has a picture of each class comes before its share; with groups
    across classes, that train has.

    Args:
        fractions: of val and test; the rest is for training.
        purpose: draws of the same pictures for different purposes are independent.
    """
    lots = Lots(pool, seed, purpose)
    groups, singles = groups_and_singles(pool)
    units = count_units(groups, singles)
    sizes = Counter(sample.label for sample in pool)
    targets: dict[str, dict[Part, int]] = {
        name: shares(size, fractions) if units[name] >= MIN_TO_SHARE else _all_trained_on(size)
        for name, size in sizes.items()
    }
    placing = Placing(targets, units, must="train")
    part_of: dict[str, Part] = {}
    for group, number in largest_first(groups, sizes, lots):
        part = placing.put(Counter(sample.label for sample in group), number)
        part_of |= {sample.path: part for sample in group}
    for name, members in by_class(singles, class_names).items():
        counts = placing.fill(name, len(members)) if members else {}
        parts = [part for part in _IN_TURN for _ in range(counts.get(part, 0))]
        drawn = zip(lots.in_order(members), parts, strict=True)
        part_of |= {sample.path: part for sample, part in drawn}
    return part_of


def by_class(samples: Iterable[Sample], class_names: Sequence[str]) -> dict[str, list[Sample]]:
    """The samples of each class by path: the order they came in is forgotten here."""
    grouped: dict[str, list[Sample]] = {name: [] for name in class_names}
    for sample in sorted(samples, key=lambda sample: sample.path):
        grouped[sample.label].append(sample)
    return grouped


def shares(num_pictures: int, fractions: Mapping[Part, float]) -> dict[Part, int]:
    """How many of a class go to test, val and train: none of them empty, where it has three.

    By Webster's method: picture by picture, each to the part with the largest claim, its share /
    (2 * what it has + 1). For three parts it keeps within one picture of the shares, as largest
    remainders do; unlike those, it never takes from a part because there is one picture more.
    """
    counts = _all_trained_on(num_pictures)
    if num_pictures < MIN_TO_SHARE:
        return counts
    weights: dict[Part, float] = {"test": fractions["test"], "val": fractions["val"]}
    weights["train"] = 1 - sum(weights.values())
    counts = {part: int(weight > 0) for part, weight in weights.items()}
    for _ in range(num_pictures - sum(counts.values())):
        # Rounded, so that claims that are equal on paper are: 1 - 0.1 - 0.1 is not quite 0.8.
        claims = {part: round(w / (2 * counts[part] + 1), 12) for part, w in weights.items()}
        counts[max(claims, key=lambda part: claims[part])] += 1
    return counts


def _all_trained_on(num_pictures: int) -> dict[Part, int]:
    return {"test": 0, "val": 0, "train": num_pictures}


def largest_remainder(total: int, weights: Mapping[K, float]) -> dict[K, int]:
    """Whole numbers that sum to `total`, each within one of its share (Hamilton's method)."""
    scale = total / sum(weights.values())
    counts = {key: int(weight * scale) for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: counts[key] - weights[key] * scale)
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts
