"""Which picture is trained on, which chooses the best epoch, which is held back for the end.

A draw is stratified and seeded, and depends on the files' names, never on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from fieldmark.data.manifest import Manifest
from fieldmark.data.sources.candidates import check_all_or_no_parts, counted, summary_of
from fieldmark.errors import RecipeError, SourceError
from fieldmark.types import Part, Sample

_MIN_TO_SHARE: Final = 3  # one picture for each part; smaller classes are trained on wholly
K = TypeVar("K")
_SPLIT_STREAM, _LIMIT_STREAM = 0, 1  # so that a limit does not change who is in val


def split(
    manifest: Manifest,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    val_is_val: bool = False,
    train_limit: int = 0,
) -> Manifest:
    """Give every sample its part, and say in notes what was done.

    Of each class, `val_fraction` and `test_fraction` are drawn (each within one picture; at least
    one where the class has three). A part that the source gives is kept: with train and val alone,
    val becomes the final test and validation is drawn from train, unless `val_is_val`.

    Args:
        train_limit: keep a stratified draw of so many training pictures; 0 keeps all.

    Raises:
        RecipeError: fractions or limit that leave a part nothing by themselves.
        SourceError: fewer than two classes, too few pictures for the parts needed, or no train
            part.
    """
    _check_classes(manifest)
    given = _given_parts(manifest)
    if val_is_val and "val" not in given:
        raise RecipeError(
            "val_is_val needs a val part, and this source has none",
            given=f"parts: {', '.join(sorted(given)) or 'none'}",
            valid="a source with train/ and val/, or a CSV with a split column",
            fix="leave val_is_val out: validation is then drawn from the training pictures",
        )
    notes: list[str] = []
    samples = manifest.samples
    if given == {"train", "val"} and val_is_val:
        notes.append(
            "val chooses the best epoch, and there is no test part: the figure reported is one "
            "that was selected on, hence optimistic."
        )
    elif given == {"train", "val"}:
        samples = tuple(replace(s, part="test") if s.part == "val" else s for s in samples)
        notes.append("val is kept for the final test; validation is drawn from train.")
        given = {"train", "test"}
    elif given == {"train", "test"}:
        notes.append("There is no val part; validation is drawn from train.")

    if "val" not in given:
        wants_test = "test" not in given
        fractions: dict[Part, float] = {
            "val": val_fraction,
            "test": test_fraction if wants_test else 0.0,
        }
        _check_fractions(fractions)
        pool = [s for s in samples if s.part in ("", "train")]
        drawn = _draw(pool, manifest.class_names, fractions, seed)
        samples = tuple(replace(s, part=drawn.get(s.path, s.part)) for s in samples)
        notes += _notes_on_draw(pool, manifest.class_names, fractions, seed)
    if train_limit:
        samples, limit_notes = _limit(samples, manifest.class_names, train_limit, seed)
        notes += limit_notes

    result = replace(manifest, samples=samples)
    _check_parts(result)
    counts = {part: len(result.of_part(part)) for part in ("train", "val", "test")}
    notes.append(
        f"{counts['train']:,} pictures to train on, {counts['val']:,} to choose the best epoch "
        + (
            f"(val), {counts['test']:,} for the final test."
            if counts["test"]
            else "(val), no test."
        )
    )
    untested = [name for name, count in result.count_by_class("test").items() if not count]
    if counts["test"] and untested:
        notes.append(f"The final test has no picture of {', '.join(untested)}.")
    return replace(result, notes=(*manifest.notes, *notes))


def _check_classes(manifest: Manifest) -> None:
    if len(manifest.class_names) > 1:
        return
    # Where another class has lost all its pictures, the notes and what was left out tell of it.
    lost = (f"Left out: {summary_of(manifest.left_out)}",) if manifest.left_out else ()
    found = f"{counted(len(manifest.samples), 'picture')} of {manifest.class_names[0]}"
    first = f"{found}, the first is {manifest.samples[0].path}."
    raise SourceError(
        "there is only one class with pictures, and a classifier needs at least two",
        given=" ".join((first, *manifest.notes, *lost)),
        valid="SOURCE/ants/1.jpg, SOURCE/bees/2.jpg: one folder, or one label, for each class",
        fix="add pictures of another class",
    )


def _given_parts(manifest: Manifest) -> set[str]:
    """The parts that the source decided; train alone decides nothing."""
    parts = {sample.part for sample in manifest.samples}
    if parts <= {"train"} or parts == {""}:
        return set()
    check_all_or_no_parts(manifest.samples, "the source")
    if "train" not in parts:
        raise SourceError(
            "there is nothing to train on",
            given=f"parts: {', '.join(sorted(parts))}",
            valid="a source with a train part, or without parts",
            fix="mark the pictures to train on as train",
        )
    return set(parts)


def _check_fractions(fractions: Mapping[Part, float]) -> None:
    total = sum(fractions.values())
    if fractions["val"] <= 0 or fractions["test"] < 0 or not total < 1:
        raise RecipeError(
            "these fractions leave nothing to train on"
            if total >= 1
            else "some pictures must be set aside to choose the best epoch",
            given=f"val_fraction {fractions['val']:g}, test_fraction {fractions['test']:g}",
            valid="val_fraction above 0, test_fraction 0 or more, together below 1",
            fix="for example 0.1 and 0.1",
        )


def _by_class(samples: Iterable[Sample], class_names: Sequence[str]) -> dict[str, list[Sample]]:
    """The samples of each class by path: the order they came in is forgotten here."""
    grouped: dict[str, list[Sample]] = {name: [] for name in class_names}
    for sample in sorted(samples, key=lambda sample: sample.path):
        grouped[sample.label].append(sample)
    return grouped


def _shuffled(samples: list[Sample], stream: int, class_index: int, seed: int) -> list[Sample]:
    """Each class has random numbers of its own: what one gains or loses leaves the others alone."""
    order = np.random.default_rng([seed, stream, class_index]).permutation(len(samples))
    return [samples[i] for i in order]


def _draw(
    pool: Sequence[Sample],
    class_names: Sequence[str],
    fractions: Mapping[Part, float],
    seed: int,
) -> dict[str, Part]:
    """The part of every path in `pool`."""
    part_of: dict[str, Part] = {}
    for class_index, members in enumerate(_by_class(pool, class_names).values()):
        counts = _shares(len(members), fractions)
        parts = [part for part, count in counts.items() for _ in range(count)]
        drawn = _shuffled(members, _SPLIT_STREAM, class_index, seed)
        part_of |= {sample.path: part for sample, part in zip(drawn, parts, strict=True)}
    return part_of


def _shares(num_pictures: int, fractions: Mapping[Part, float]) -> dict[Part, int]:
    """How many of a class go to test, val and train: largest remainder, none of them empty."""
    if num_pictures < _MIN_TO_SHARE:
        return {"train": num_pictures}
    # test before val: of two equal remainders the final figure gets the picture.
    weights: dict[Part, float] = {"test": fractions["test"], "val": fractions["val"]}
    weights["train"] = 1 - sum(weights.values())
    counts = _largest_remainder(num_pictures, weights)
    for part, weight in weights.items():
        if weight > 0 and counts[part] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[part] = 1
    return counts


def _largest_remainder(total: int, weights: Mapping[K, float]) -> dict[K, int]:
    """Whole numbers that sum to `total`, each within one of its share (Hamilton's method)."""
    scale = total / sum(weights.values())
    counts = {key: int(weight * scale) for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: counts[key] - weights[key] * scale)
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _limit(
    samples: Sequence[Sample], class_names: Sequence[str], limit: int, seed: int
) -> tuple[tuple[Sample, ...], list[str]]:
    """Keep `limit` training pictures, drawn in the proportions of the classes."""
    by_class = _by_class((s for s in samples if s.part == "train"), class_names)
    sizes = {name: len(members) for name, members in by_class.items() if members}
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
    counts = _largest_remainder(limit, sizes)
    for name in counts:
        if counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    kept: set[str] = set()
    for class_index, (name, members) in enumerate(by_class.items()):
        drawn = _shuffled(members, _LIMIT_STREAM, class_index, seed)
        kept.update(sample.path for sample in drawn[: counts.get(name, 0)])
    note = (
        f"Trained on a stratified draw of {limit:,} of {total:,} training pictures (train_limit); "
        f"the other {total - limit:,} are not used."
    )
    return tuple(s for s in samples if s.part != "train" or s.path in kept), [note]


def _notes_on_draw(
    pool: Sequence[Sample],
    class_names: Sequence[str],
    fractions: Mapping[Part, float],
    seed: int,
) -> list[str]:
    percents = {part: f"{100 * fraction:g}" for part, fraction in fractions.items()}
    train = f"{100 * (1 - sum(fractions.values())):g}"
    shares = f"{train}/{percents['val']}/{percents['test']} train/val/test"
    if not fractions["test"]:
        shares = f"{train}/{percents['val']} train/val"
    source = "train" if pool and pool[0].part else "all pictures"
    notes = [f"Drawn from {source}, stratified by class: {shares}, seed {seed}."]
    sizes = {name: len(members) for name, members in _by_class(pool, class_names).items()}
    small = [name for name, size in sizes.items() if 0 < size < _MIN_TO_SHARE]
    if small:
        notes.append(
            f"Fewer than {_MIN_TO_SHARE} pictures, hence all trained on and never tested: "
            f"{', '.join(small)}."
        )
    return notes


def _check_parts(manifest: Manifest) -> None:
    for part, purpose in (("train", "train on"), ("val", "choose the best epoch")):
        if not any(sample.part == part for sample in manifest.samples):
            sizes = manifest.count_by_class()
            raise SourceError(
                f"there are too few pictures: none is left to {purpose}",
                given=", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:10]),
                valid=f"at least {_MIN_TO_SHARE} pictures of a class, so that train, val and test "
                "get one each; some 50 of each for a figure that means something",
                fix="add pictures",
            )
