"""Cross-validation: every picture is tested once, by a network that did not see it or its group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.draw import by_class, draw
from fieldmark.data.parts.evening import even_out
from fieldmark.data.parts.lots import Lots
from fieldmark.data.parts.placing import Placing, count_units, groups_and_singles, largest_first
from fieldmark.data.parts.split import check_classes
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import RecipeError, SourceError
from fieldmark.types import Part, Sample

MOST_FOLDS: Final = 1000


def make_folds(
    manifest: Manifest, num_folds: int, *, val_fraction: float, seed: int
) -> tuple[Manifest, ...]:
    """`num_folds` splits of the same pictures, each held back as `test` in exactly one of them.

    Folds are stratified: without groups each class is spread within one picture, and the folds are
    of one size within one picture. Groups are whole; they are dealt so that the classes are spread
    as evenly as they allow. `val` is then drawn from what is not `test`, as `draw` does it.

    Args:
        manifest: parts are not heeded.
        val_fraction: of the pictures that are not `test`; 0 draws no `val`.

    Raises:
        RecipeError: such a number of folds or fraction makes no sense.
        SourceError: a class has too few pictures or groups to be trained on and tested, or there
            are fewer than folds.
    """
    check_classes(manifest)
    if not 2 <= num_folds <= MOST_FOLDS:
        raise RecipeError(
            "this number of folds makes no sense",
            given=num_folds,
            valid=f"2 to {MOST_FOLDS}; 5 and 10 are usual",
            fix="--folds 5",
        )
    if not 0 <= val_fraction < 1:
        raise RecipeError(
            "val is a share of what a fold leaves to train on",
            given=f"val_fraction {val_fraction:g}",
            valid="0 or more, below 1",
            fix="for example 0.1",
        )
    samples = [replace(sample, part="") for sample in manifest.samples]
    fold_of = _deal(samples, manifest.class_names, num_folds, seed)
    _check(samples, fold_of, num_folds)
    notes = (*manifest.notes, *_notes(samples, manifest.class_names, num_folds, seed))
    folds = []
    for fold in range(num_folds):
        rest = [sample for sample in samples if fold_of[sample.path] != fold]
        parts: dict[str, Part] = dict.fromkeys((sample.path for sample in rest), "train")
        if val_fraction:
            fractions: dict[Part, float] = {"val": val_fraction, "test": 0.0}
            # Each fold for itself: else the same few would be val in all folds but their own.
            purpose = f"val of fold {fold}"
            parts = draw(rest, manifest.class_names, fractions, seed, purpose)
        drawn = tuple(replace(s, part=parts.get(s.path, "test")) for s in samples)
        folds.append(replace(manifest, samples=drawn, notes=notes))
        _check_parts(folds[-1], fold, wants_val=val_fraction > 0)
    return tuple(folds)


def _deal(
    samples: Sequence[Sample], class_names: Sequence[str], num_folds: int, seed: int
) -> dict[str, int]:
    """The fold of every path."""
    lots = Lots(samples, seed, "folds")
    groups, singles = groups_and_singles(samples)
    sizes = Counter(sample.label for sample in samples)
    placing = Placing(_targets(sizes, class_names, num_folds), count_units(groups, singles))
    fold_of: dict[str, int] = {}
    dealt = [group for group, _ in largest_first(groups, sizes, lots)]
    units = [Counter(sample.label for sample in group) for group in dealt]
    folds_of_groups = even_out(units, [placing.put(unit) for unit in units], placing)
    for group, fold in zip(dealt, folds_of_groups, strict=True):
        fold_of |= {sample.path: fold for sample in group}
    for name, members in by_class(singles, class_names).items():
        counts = placing.fill(name, len(members)) if members else {}
        folds = [fold for fold, count in counts.items() for _ in range(count)]
        drawn = zip(lots.in_order(members), folds, strict=True)
        fold_of |= {sample.path: fold for sample, fold in drawn}
    return fold_of


def _targets(
    sizes: Counter[str], class_names: Sequence[str], num_folds: int
) -> dict[str, dict[int, int]]:
    """Pictures of each class for each fold. What is left over after a division goes to the folds in
    turn, on from where the class before has stopped, so that no fold gets all of it."""
    targets: dict[str, dict[int, int]] = {}
    turn = 0
    for name in class_names:
        if sizes[name]:
            each, over = divmod(sizes[name], num_folds)
            targets[name] = dict.fromkeys(range(num_folds), each)
            for fold in range(turn, turn + over):
                targets[name][fold % num_folds] += 1
            turn += over
    return targets


def _check(samples: Sequence[Sample], fold_of: dict[str, int], num_folds: int) -> None:
    used = {*fold_of.values()}
    if len(used) < num_folds:
        groups, singles = groups_and_singles(samples)
        found = counted(len(singles), "picture") + (
            f" that stand alone and {counted(len(groups), 'group')}" if groups else ""
        )
        raise SourceError(
            f"there are not enough pictures or groups for {num_folds} folds",
            given=found,
            valid="at least as many as folds",
            fix=f"--folds {max(2, len(used))}, or add pictures",
        )
    folds: dict[str, set[int]] = {}
    for sample in samples:
        folds.setdefault(sample.label, set()).add(fold_of[sample.path])
    alone = sorted(name for name, where in folds.items() if len(where) < 2)
    if alone:
        raise SourceError(
            "a class lies in one fold alone: it would be tested where it was never trained on",
            given=f"{', '.join(alone[:5])}: one picture, or one group that has them all",
            valid="at least two pictures of a class that do not belong together; as many as folds "
            "to have each fold test it",
            fix="add pictures of that class, or leave it out",
        )


def _check_parts(manifest: Manifest, fold: int, *, wants_val: bool) -> None:
    trained = {sample.label for sample in manifest.of_part("train")}
    lacking = sorted({sample.label for sample in manifest.samples} - trained)
    if lacking or (wants_val and not manifest.of_part("val")):
        raise SourceError(
            f"fold {fold + 1} leaves no picture of {', '.join(lacking[:5])} to train on"
            if lacking
            else f"fold {fold + 1} leaves none to choose the best epoch (val)",
            given=", ".join(f"{k}: {n}" for k, n in list(manifest.count_by_class().items())[:10]),
            valid="a few pictures or groups of each class for each fold",
            fix="make fewer folds, or leave val out: --val 0",
        )


def _notes(
    samples: Sequence[Sample], class_names: Sequence[str], num_folds: int, seed: int
) -> list[str]:
    groups, singles = groups_and_singles(samples)
    notes = [f"{num_folds} folds, stratified by class, seed {seed}; each picture is tested once."]
    if groups:
        notes.append(
            f"Kept together: {counted(len(groups), 'group')} of {sum(map(len, groups)):,} "
            f"pictures, the largest of {max(map(len, groups)):,}."
        )
    units = count_units(groups, singles)
    few = [name for name in class_names if 0 < units[name] < num_folds]
    if few:
        notes.append(
            f"Fewer than {num_folds} pictures or groups, hence not tested in every fold: "
            f"{', '.join(few)}."
        )
    return notes
