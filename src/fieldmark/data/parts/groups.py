"""Groups: pictures that have too much in common to be trained on and tested with.

Frames of one film, photos of one patient, near-duplicates: what was learnt on one is known of the
other, and a test would measure memory. Groups come from a table, from file names, or from a search
for near-duplicates, and are joined here wherever they share a picture.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fieldmark.recipe import group_expression
from fieldmark.types import Sample


def merge(
    samples: Sequence[Sample],
    together: Iterable[Sequence[int]] = (),
    *,
    names: Sequence[str] = (),
) -> tuple[Sample, ...]:
    """`samples`, in their order, with the groups that follow from all that is known.

    Pictures go together if they have one group's name, or one of `names`, or are in one set of
    `together`; and so do all that such ties connect. A joint group has the first of its names in
    the order of the alphabet; without any, it is called after the first path in it. Neither the
    order of the samples nor that of the sets makes a difference.

    Args:
        together: sets of positions in `samples`.
        names: another group for each sample, "" for none; nothing at all gives nobody one.
    """
    root = list(range(len(samples)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]  # halves the way for the next who asks
            i = root[i]
        return i

    def tie(positions: Sequence[int]) -> None:
        for i in positions[1:]:
            root[find(i)] = find(positions[0])

    by_name: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        for name in {sample.group, names[i] if names else ""} - {""}:
            by_name[name].append(i)
    for positions in (*by_name.values(), *together):
        tie(positions)

    called: dict[int, str] = {}
    for name, positions in sorted(by_name.items()):
        called.setdefault(find(positions[0]), name)
    nameless: dict[int, list[int]] = defaultdict(list)
    for i in range(len(samples)):
        if find(i) not in called:
            nameless[find(i)].append(i)
    places = below_common_folder([sample.path for sample in samples])
    taken = set(called.values())
    for first, positions in sorted((min(places[i] for i in m), m) for m in nameless.values()):
        if len(positions) > 1:
            while first in taken:  # a table may use a file's name for a group of other pictures
                first += "~"
            taken.add(first)
            called[find(positions[0])] = first
    return tuple(
        sample if sample.group == name else replace(sample, group=name)
        for sample, name in ((s, called.get(find(i), "")) for i, s in enumerate(samples))
    )


def group_by(samples: Sequence[Sample], pattern: str) -> tuple[tuple[Sample, ...], list[str]]:
    """Group pictures by what a regular expression finds in their paths; returns what to tell, too.

    It is searched for in the path below the folder that all pictures have in common, written with
    forward slashes: where the pictures lie makes no difference. What its first (group) finds is the
    group's name, else all that it finds. A picture in which it finds nothing stands alone, unless
    it has a group already; groups that share a picture are joined.

    Raises:
        RecipeError: it is no regular expression.
    """
    expression = group_expression(pattern)
    places = below_common_folder([sample.path for sample in samples])
    names = []
    for place in places:
        found = expression.search(place)
        names.append((found[min(1, expression.groups)] or "") if found else "")
    num_groups, num_named = len({*names} - {""}), sum(map(bool, names))
    example = f"It is searched for in paths such as {places[0]!r}." if places else ""
    if not num_named:
        note = f"WARNING: group_by finds nothing in any path: no groups are made. {example}"
    elif num_groups == 1 and num_named == len(samples):
        note = f"WARNING: group_by puts all pictures into one group, {names[0]!r}. {example}"
    elif num_groups == num_named:
        note = f"WARNING: group_by gives every picture a group of its own. {example}"
    else:
        alone = len(samples) - num_named
        groups = f"{num_groups:,} group{'s' * (num_groups > 1)}"
        note = f"group_by makes {groups} of {num_named:,} pictures" + (
            f"; nothing is found in the paths of {alone:,}, which stand alone." if alone else "."
        )
    return merge(samples, names=names), [note]


def below_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths from the folder that all of them have in common, with forward slashes."""
    if not paths:
        return []
    split = [path.replace(os.sep, "/").split("/") for path in paths]
    first, last = min(split), max(split)  # what these two share, all others share as well
    depth = 0
    while depth < min(len(first), len(last)) - 1 and first[depth] == last[depth]:
        depth += 1
    return ["/".join(words[depth:]) for words in split]
