"""Folds made more even by exchanging groups, where dealing them out once was not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from fieldmark.data.parts.placing import Placing

_MAX_PASSES: Final = 10
_MAX_WORK: Final = 3e8  # differences looked at in a pass, some seconds; so many groups are even
_LEAST_GAIN: Final = 1e-9  # below it, rounding could have groups change places for ever


def even_out(
    units: Sequence[Mapping[str, int]], places: Sequence[int], placing: Placing[int]
) -> list[int]:
    """Move groups, or exchange two, as long as the classes are spread more evenly by it.

    What shrinks is the sum over places and classes of what is lacked, as a share of its class,
    squared. No place loses its last picture of a class.

    Args:
        units: n groups, by their pictures of each class.
        places: the place of each, as `placing` counts it; `placing` is kept up to date.

    Returns:
        The place of each group in the end.
    """
    found = list(places)
    names = list(placing.lacking)
    if not found or len(units) ** 2 * len(names) > _MAX_WORK:
        return found
    sizes_c = np.array([placing.total[name] for name in names], dtype=float)
    counts_nc = np.array([[unit.get(name, 0) for name in names] for unit in units], dtype=float)
    # A move is an exchange with nothing: every place has one such group without pictures.
    counts_nc = np.vstack([counts_nc, np.zeros((len(placing.places), len(names)))])
    shares_nc = counts_nc / sizes_c
    where_n = np.array([*found, *placing.places])
    lacking_pc = np.array([[placing.lacking[name][p] for name in names] for p in placing.places])
    lacking_pc = lacking_pc / sizes_c
    has_pc = np.zeros_like(lacking_pc)
    np.add.at(has_pc, where_n, counts_nc)

    for _ in range(_MAX_PASSES):
        changed = False
        for i in range(len(units)):
            here = where_n[i]
            # |L_a|^2 + |L_b|^2 - |L_a + D|^2 - |L_b - D|^2 with D what leaves a for b
            leaves_nc = shares_nc[i] - shares_nc
            gain_n = 2 * (leaves_nc * (lacking_pc[where_n] - lacking_pc[here] - leaves_nc)).sum(1)
            j = int(np.argmax(gain_n))
            there = where_n[j]
            if gain_n[j] < _LEAST_GAIN or there == here:
                continue
            moved_c = counts_nc[i] - counts_nc[j]
            after = np.stack([has_pc[here] - moved_c, has_pc[there] + moved_c])
            if ((after == 0) & (has_pc[[here, there]] > 0)).any():
                continue
            has_pc[[here, there]] = after
            lacking_pc[here] += leaves_nc[j]
            lacking_pc[there] -= leaves_nc[j]
            where_n[i] = there
            if j < len(units):  # the groups without pictures stay
                where_n[j] = here
            changed = True
        if not changed:
            break
    for i, unit in enumerate(units):
        placing.move(unit, found[i], int(where_n[i]))
        found[i] = int(where_n[i])
    return found
