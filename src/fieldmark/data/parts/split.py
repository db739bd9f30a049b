"""Which picture is trained on, which chooses the best epoch, which is held back for the end.

A draw is stratified and seeded, and depends on the files' names, never on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.draw import MIN_TO_SHARE, draw
from fieldmark.data.parts.placing import count_units, groups_and_singles
from fieldmark.data.parts.train_limit import limit_train
from fieldmark.data.sources.candidates import check_all_or_no_parts, counted, summary_of
from fieldmark.errors import RecipeError, SourceError
from fieldmark.types import PARTS, Part, Sample


def split(
    manifest: Manifest,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    val_is_val: bool = False,
    train_limit: int = 0,
    needs_val: bool = True,
) -> Manifest:
    """Give every sample its part, and say in notes what was done.

    Of each class, `val_fraction` and `test_fraction` are drawn (each within one picture; at least
    one where the class has three); pictures of one group land in one part, and `draw` says what
    becomes of the fractions then. A part that the source gives is kept: with train and val alone,
    val becomes the final test and validation is drawn from train, unless `val_is_val`.

    Args:
        train_limit: keep a stratified draw of so many training pictures; 0 keeps all.
        needs_val: a `val_fraction` of 0 is refused, as nothing could choose the best epoch.

    Raises:
        RecipeError: fractions or limit that leave a part nothing by themselves.
        SourceError: fewer than two classes, too few pictures or groups for the parts needed, or no
            train part.
    """
    check_classes(manifest)
    given = given_parts(manifest)
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

    wanted: set[Part] = {"train", "val"} if needs_val else {"train"}
    if "val" not in given:
        wants_test = "test" not in given
        fractions: dict[Part, float] = {
            "val": val_fraction,
            "test": test_fraction if wants_test else 0.0,
        }
        check_fractions(fractions, needs_val=needs_val)
        wanted |= {part for part, fraction in fractions.items() if fraction}
        pool = [s for s in samples if s.part in ("", "train")]
        drawn = draw(pool, manifest.class_names, fractions, seed)
        samples = tuple(replace(s, part=drawn.get(s.path, s.part)) for s in samples)
        notes += _notes_on_draw(pool, fractions, seed)
    if train_limit:
        samples, limit_notes = limit_train(samples, manifest.class_names, train_limit, seed)
        notes += limit_notes

    result = replace(manifest, samples=samples)
    _check_parts(result, wanted)
    notes += [*_notes_on_counts(result), *notes_on_leaks(samples)]
    return replace(result, notes=(*manifest.notes, *notes))


def check_classes(manifest: Manifest) -> None:
    """Raise SourceError where there is nothing to tell apart."""
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


def given_parts(manifest: Manifest) -> set[Part]:
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
    return {part for part in PARTS if part in parts}


def shares_to_draw(
    samples: Sequence[Sample],
    *,
    val_fraction: float,
    test_fraction: float,
    val_is_val: bool = False,
) -> tuple[float, ...]:
    """The shares of the parts that `split` would draw: of train, val and test; none where the
    source gives all that is needed."""
    given = {sample.part for sample in samples} & {"val", "test"}
    if given == {"val", "test"} or (given == {"val"} and val_is_val):
        return ()
    test_fraction = 0.0 if given else test_fraction
    return (1 - val_fraction - test_fraction, val_fraction, test_fraction)


def check_fractions(fractions: Mapping[Part, float], *, needs_val: bool = True) -> None:
    """Raise RecipeError for fractions of val and test that leave a part nothing."""
    total = sum(fractions.values())
    too_small = min(fractions.values()) < 0 or (fractions["val"] if needs_val else total) <= 0
    if too_small or not total < 1:
        raise RecipeError(
            "these fractions leave nothing to train on"
            if total >= 1
            else "some pictures must be set aside to choose the best epoch"
            if needs_val
            else "these fractions set nothing aside",
            given=f"val_fraction {fractions['val']:g}, test_fraction {fractions['test']:g}",
            valid="val_fraction above 0, test_fraction 0 or more, together below 1"
            if needs_val
            else "each 0 or more, together above 0 and below 1",
            fix="for example 0.1 and 0.1",
        )


def _notes_on_draw(pool: Sequence[Sample], fractions: Mapping[Part, float], seed: int) -> list[str]:
    drawn = {"train": 1 - sum(fractions.values()), **fractions}
    named = [part for part in PARTS if drawn[part]]
    shares = f"{'/'.join(f'{100 * drawn[part]:g}' for part in named)} {'/'.join(named)}"
    source = "train" if pool and pool[0].part else "all pictures"
    notes = [f"Drawn from {source}, stratified by class: {shares}, seed {seed}."]
    groups, singles = groups_and_singles(pool)
    if groups:
        num_pictures, largest = sum(map(len, groups)), max(map(len, groups))
        notes.append(
            f"Kept together: {counted(len(groups), 'group')} of {num_pictures:,} pictures, the "
            f"largest of {largest:,}."
        )
    small = [name for name, size in _sizes(pool).items() if size < MIN_TO_SHARE]
    if small:
        notes.append(
            f"Fewer than {MIN_TO_SHARE} pictures, hence all trained on and never tested: "
            f"{', '.join(small)}."
        )
    units = count_units(groups, singles)
    few = [name for name in _sizes(pool) if units[name] < MIN_TO_SHARE and name not in small]
    if few:
        notes.append(
            f"Fewer than {MIN_TO_SHARE} groups or pictures that stand alone, hence trained on and "
            f"not tested: {', '.join(few)}."
        )
    return notes


def _sizes(pool: Sequence[Sample]) -> dict[str, int]:
    return dict(sorted(Counter(sample.label for sample in pool).items()))


def _notes_on_counts(manifest: Manifest) -> list[str]:
    train, val, test = (len(manifest.of_part(part)) for part in PARTS)
    chosen = f"{val:,} to choose the best epoch (val)" if val else "no val"
    tested = f"{test:,} for the final test" if test else "no test"
    notes = [f"{train:,} pictures to train on, {chosen}, {tested}."]
    untested = [name for name, count in manifest.count_by_class("test").items() if not count]
    if test and untested:
        notes.append(f"The final test has no picture of {', '.join(untested)}.")
    return notes


def notes_on_leaks(samples: Sequence[Sample]) -> list[str]:
    """What a group across parts means; only a source that gives its parts can have one."""
    parts_of: dict[str, set[Part]] = defaultdict(set)
    for sample in samples:
        if sample.group and sample.part:
            parts_of[sample.group].add(sample.part)
    across: dict[str, list[str]] = defaultdict(list)
    for group, parts in sorted(parts_of.items()):
        if len(parts) > 1:
            across[" and ".join(part for part in PARTS if part in parts)].append(group)
    if not across:
        return []
    told = "; ".join(
        f"{counted(len(groups), 'group')} in {parts}, for example {groups[0]!r}"
        for parts, groups in across.items()
    )
    return [
        f"WARNING: the parts that the source gives share groups of pictures: {told}. Nothing was "
        "moved; figures on such pictures are too good. To have whole groups drawn, hand the "
        "pictures over without parts, or run `fieldmark split SOURCE OUT --redraw`."
    ]


def _check_parts(manifest: Manifest, wanted: set[Part]) -> None:
    purposes = {"train": "train on", "val": "choose the best epoch", "test": "test with"}
    for part in PARTS:
        if part not in wanted or manifest.of_part(part):
            continue
        sizes = manifest.count_by_class()
        problem = f"there are too few pictures: none is left to {purposes[part]}"
        groups, _ = groups_and_singles(manifest.samples)
        if groups:
            largest = max(groups, key=len)
            raise SourceError(
                f"there are too few groups: none is left to {purposes[part]}",
                given=f"{counted(len(manifest.samples), 'picture')}, of which {len(largest):,} are "
                f"one group, {largest[0].group!r}; groups: {len(groups):,}",
                valid=f"at least {MIN_TO_SHARE} groups or pictures that stand alone of a class, so "
                "that train, val and test get one each",
                fix="look at what makes the groups (the column group, group_by, near-duplicates): "
                "is it so fine that only what belongs together shares one?",
            )
        raise SourceError(
            problem,
            given=", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:10]),
            valid=f"at least {MIN_TO_SHARE} pictures of a class, so that train, val and test "
            "get one each; some 50 of each for a figure that means something",
            fix="add pictures",
        )
