"""Fewer training pictures than there are, for trying things out; val and test stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from fieldmark.data.parts.draw import by_class, largest_remainder
from fieldmark.data.parts.lots import Lots
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import RecipeError
from fieldmark.types import Sample


def limit_train(
    samples: Sequence[Sample], class_names: Sequence[str], limit: int, seed: int
) -> tuple[tuple[Sample, ...], list[str]]:
    """Keep `limit` training pictures, drawn in the proportions of the classes."""
    pictures_of = by_class((s for s in samples if s.part == "train"), class_names)
    sizes = {name: len(members) for name, members in pictures_of.items() if members}
    total = sum(sizes.values())
    if limit >= total:
        return tuple(samples), []
    if limit < len(sizes):
        raise RecipeError(
            "train_limit is below one picture a class",
            given=f"train_limit {limit} for {counted(len(sizes), 'class')}",
            valid=f"{len(sizes)} or more; 0 for no limit",
            fix="raise it",
        )
    counts = largest_remainder(limit, sizes)
    for name in counts:
        if counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    kept: set[str] = set()
    lots = Lots(samples, seed, "limit")
    for name, members in pictures_of.items():
        kept.update(sample.path for sample in lots.in_order(members)[: counts.get(name, 0)])
    note = (
        f"Trained on a stratified draw of {limit:,} of {total:,} training pictures (train_limit); "
        f"the other {total - limit:,} are not used."
    )
    return tuple(s for s in samples if s.part != "train" or s.path in kept), [note]
