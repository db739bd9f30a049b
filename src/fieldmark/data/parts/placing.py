"""Groups of pictures to places (parts, or folds), each class near its target in every one.

Largest groups first, each to where its pictures are lacked most; what is left over is made good
with smaller groups and single pictures. That no place gets more of a class than it should while
another has room for the whole group bounds what is wrong in the end by the size of a group.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from fieldmark.data.parts.lots import Lots, number_of
from fieldmark.types import Sample

P = TypeVar("P", bound=Hashable)


def groups_and_singles(samples: Iterable[Sample]) -> tuple[list[list[Sample]], list[Sample]]:
    """Groups of two and more, and everybody else. In the order of paths: the order the samples
    came in is forgotten here."""
    by_group: dict[str, list[Sample]] = defaultdict(list)
    singles: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: sample.path):
        (by_group[sample.group] if sample.group else singles).append(sample)
    alone = [members[0] for members in by_group.values() if len(members) == 1]
    groups = [members for members in by_group.values() if len(members) > 1]
    return groups, sorted((*singles, *alone), key=lambda sample: sample.path)


def largest_first(
    groups: Iterable[list[Sample]], sizes: Mapping[str, int], lots: Lots
) -> list[tuple[list[Sample], float]]:
    """Groups by the share of their classes that they hold, equal ones by their lots; each with a
    random number in [0, 1).

    Args:
        sizes: all pictures of each class.
    """
    drawn = sorted(((lots.of_group(group), group) for group in groups), key=lambda item: item[0])
    return sorted(
        ((group, number_of(lot)) for lot, group in drawn),
        key=lambda item: -sum(1 / sizes[sample.label] for sample in item[0]),
    )


def count_units(groups: Iterable[Sequence[Sample]], singles: Iterable[Sample]) -> Counter[str]:
    """For each class, the groups and single pictures that have it."""
    units = Counter(sample.label for sample in singles)
    for group in groups:
        units.update({sample.label for sample in group})
    return units


class Placing(Generic[P]):
    """What each place still lacks of each class, while it is being filled.

    Args:
        targets: pictures of each class that each place should have.
        num_units: groups and single pictures of each class that will come.
        must: a place that may lack no class (train), whatever that costs the others.
    """

    def __init__(
        self,
        targets: Mapping[str, Mapping[P, int]],
        num_units: Mapping[str, int],
        must: P | None = None,
    ) -> None:
        self.places = list(dict.fromkeys(place for counts in targets.values() for place in counts))
        self.lacking = {
            name: {place: counts.get(place, 0) for place in self.places}
            for name, counts in targets.items()
        }
        self.targets = {name: dict(counts) for name, counts in self.lacking.items()}
        self.total = {name: sum(counts.values()) for name, counts in targets.items()}
        self.units_left = dict(num_units)
        self.must = must

    def put(self, unit: Mapping[str, int], number: float | None = None) -> P:
        """The place of a group, given its pictures of each class; it counts as filled.

        Args:
            number: random, in [0, 1): among the places with room for the whole group one is drawn,
                with a chance in proportion to what it lacks. Else the largest of groups would be
                trained on whatever the seed, and never tested. None takes the one that lacks most.
        """
        choices = self._in_need(unit) or self.places
        roomy = [
            place
            for place in choices
            if all(self.lacking[name][place] >= count for name, count in unit.items())
        ]
        if roomy and number is not None:
            weights = np.array([self._lack(unit, place) for place in roomy])
            at = int(np.searchsorted(np.cumsum(weights), number * weights.sum(), side="right"))
            place = roomy[min(at, len(roomy) - 1)]
        else:
            place = max(roomy or choices, key=lambda place: self._preference(unit, place))
        for name, count in unit.items():
            self.lacking[name][place] -= count
            self.units_left[name] -= 1
        return place

    def move(self, unit: Mapping[str, int], before: P, after: P) -> None:
        """A group was put elsewhere."""
        for name, count in unit.items():
            self.lacking[name][before] += count
            self.lacking[name][after] -= count

    def fill(self, name: str, num_singles: int) -> dict[P, int]:
        """How many of a class's single pictures go to each place; all of its groups are placed."""
        lacking = self.lacking[name]
        if min(lacking.values()) >= 0 and num_singles == sum(lacking.values()):
            return dict(lacking)
        counts = Counter(self.put({name: 1}) for _ in range(num_singles))
        return {place: counts[place] for place in self.places}

    def _in_need(self, unit: Mapping[str, int]) -> list[P]:
        """The places that would be left without a class unless they get one of its last units."""
        needed: set[P] = set()
        for name in unit:
            empty = self._without(name)
            if self.units_left[name] <= len(empty):
                if self.must in empty and self.units_left[name] == 1:
                    assert self.must is not None
                    return [self.must]
                needed |= empty
        return [place for place in self.places if place in needed]

    def _without(self, name: str) -> set[P]:
        """The places that want a class and have no picture of it yet."""
        lacking = self.lacking[name]
        return {
            place
            for place, target in self.targets[name].items()
            if target > 0 and lacking[place] == target
        }

    def _lack(self, unit: Mapping[str, int], place: P) -> float:
        """How much of what this group has is lacked, classes counting alike whatever their size.

        The sum of squares of what is lacked, each as a share of its class, shrinks most by putting
        the group where this is largest.
        """
        return sum(
            (count / self.total[name]) * (self.lacking[name][place] / self.total[name])
            for name, count in unit.items()
        )

    def _preference(self, unit: Mapping[str, int], place: P) -> tuple[float, int]:
        of_any_class = sum(counts[place] for counts in self.lacking.values())
        return self._lack(unit, place), of_any_class
