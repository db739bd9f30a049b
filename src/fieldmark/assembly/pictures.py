"""The pictures' side of a verb: which they are, and what is said of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fieldmark.checkpoint import ModelInfo
from fieldmark.data.check.looks import WhileOpen
from fieldmark.data.check.quick import quick_check
from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.data.manifest import Manifest, read_samples
from fieldmark.data.parts.groups import group_by, merge
from fieldmark.data.parts.split import shares_to_draw, split
from fieldmark.data.prepare import PreparedData
from fieldmark.data.sources.scan import scan
from fieldmark.errors import (
    CheckpointError,
    SourceError,
)
from fieldmark.progress import Progress
from fieldmark.recipe import Recipe
from fieldmark.rundir import RunDirectory
from fieldmark.runtime import Runtime
from fieldmark.types import Sample

Source = str | Path | Manifest | Iterable[Any]
UNNAMED = "pictures"  # handed over in Python
NUM_CLASSES_NAMED = 12  # of a model, in an error


def source_words(source: Source | None) -> str | None:
    """How a recipe names a source; pictures handed over in Python have no name."""
    if source is None:
        return None
    return str(source) if isinstance(source, str | Path) else UNNAMED


def find_samples(
    source: Source | None, recipe: Recipe, progress: Progress
) -> tuple[Manifest, tuple[str, ...]]:
    """The labelled pictures of a source (else the recipe's) under the recipe's class names and in
    its groups, and the names the source itself has for these classes, in the same order.

    Raises:
        SourceError: the recipe is strict, and a file cannot be used.
    """
    named = recipe.source if source is None else source
    manifest = scan(named, depth=recipe.data.depth, progress=progress)
    if recipe.data.strict and manifest.left_out:
        first = manifest.left_out[0]
        raise SourceError(
            f"a file of this source cannot be used: {first.reason}",
            given=first.path,
            fix="mend or remove that file, or drop --strict to leave such files out",
        )
    if recipe.data.group_by:
        samples, notes = group_by(manifest.samples, recipe.data.group_by)
        manifest = replace(manifest, samples=samples, notes=(*manifest.notes, *notes))
    return manifest.renamed(recipe.data.class_names), manifest.class_names


def draw_parts(manifest: Manifest, recipe: Recipe) -> Manifest:
    """Every picture in a part, as the recipe says; see `split`."""
    data = recipe.data
    return split(
        manifest,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=recipe.seed,
        val_is_val=data.val_is_val,
        train_limit=data.train_limit,
    )


def look_for_copies(
    manifest: Manifest, recipe: Recipe, progress: Progress, while_open: WhileOpen | None = None
) -> Manifest:
    """Warn of what would spoil a training, and tie copies of one picture into one group.

    Parts that the source gives are not changed. Where nothing is found, neither is anything else.

    Args:
        while_open: what else is done with the pictures that are opened for it.
    """
    if not recipe.data.quick_check:
        return manifest
    data = recipe.data
    shares = shares_to_draw(
        manifest.samples,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        val_is_val=data.val_is_val,
    )
    quick = quick_check(manifest, progress, shares=shares, while_open=while_open)
    for line in quick.warnings:
        progress.say(line.replace("check SOURCE", f"check {_as_typed(recipe)}"))
    if not quick.together:
        return manifest
    return replace(manifest, samples=merge(manifest.samples, quick.together))


def _as_typed(recipe: Recipe) -> str:
    """The source as a command takes it, with its depth."""
    if recipe.source == UNNAMED:
        return "SOURCE"
    depth = recipe.data.depth
    return shlex.quote(recipe.source) + (f" --depth {depth}" if depth > 1 else "")


def make_loaders(
    data: PreparedData, recipe: Recipe, runtime: Runtime
) -> tuple[TrainLoader, EvalLoader]:
    """Augmented training batches and plain validation batches."""
    batch_size = recipe.training.batch_size
    train = TrainLoader(
        data.train,
        data.labels(data.train),
        data.preprocess,
        recipe.augment,
        runtime,
        batch_size=batch_size,
        seed=recipe.seed,
        sampling=recipe.training.sampling,
        num_classes=len(data.manifest.class_names),
    )
    val = EvalLoader(
        data.val, data.labels(data.val), data.preprocess, runtime, batch_size=batch_size
    )
    return train, val


def find_test_part(run: RunDirectory) -> tuple[Manifest, str]:
    """The pictures a run kept for its test.

    Raises:
        CheckpointError: the model file is alone, or the run kept none.
    """
    if not run.manifest.is_file():
        raise CheckpointError(
            "this model stands alone: there is no manifest beside it that names test pictures",
            given=run.path,
            fix="say which pictures: fieldmark evaluate MODEL SOURCE",
        )
    kept = samples_of(run)
    samples = tuple(sample for sample in kept if sample.part == "test")
    if not samples:
        raise CheckpointError(
            "this run kept no test pictures (val_is_val, or a test_fraction of 0)",
            given=run.manifest,
            fix="say which pictures: fieldmark evaluate RUN SOURCE",
        )
    manifest = Manifest(
        samples=samples,
        class_names=tuple(sorted({sample.label for sample in kept})),
        left_out=(),
        notes=(),
        all_grey=False,
        typical_side_px=0,  # what is decided by these two was decided when the run was trained
    )
    return manifest, f"the run's own test part, {run.manifest}"


def samples_of(run: RunDirectory) -> tuple[Sample, ...]:
    """The samples that a run was made of, from its manifest alone.

    Raises:
        CheckpointError: the manifest is not as the run wrote it.
    """
    try:
        return read_samples(run.manifest)
    except SourceError as error:
        raise CheckpointError(
            f"the run's manifest cannot be read: {error.problem}",
            given=run.manifest,
            valid="the columns path,label,split,group, as the run wrote them",
            fix="say which pictures: fieldmark evaluate MODEL SOURCE, with the model file "
            "away from that manifest",
        ) from error


def scan_for(info: ModelInfo, source: Source, progress: Progress, *, depth: int = 1) -> Manifest:
    """A source to evaluate on, its classes renamed as the model's training renamed them."""
    manifest = scan(source, depth=depth, progress=progress)
    if set(manifest.class_names) <= set(info.class_names):
        return manifest
    source_names = info.history.get("source_class_names", info.class_names)
    new_name = dict(zip(source_names, info.class_names, strict=False))
    return manifest.renamed([new_name.get(name, name) for name in manifest.class_names])


def part_to_evaluate(manifest: Manifest) -> tuple[Manifest, str]:
    """The test part of a source, else `val`, else everything."""
    for part in ("test", "val"):
        samples = tuple(sample for sample in manifest.samples if sample.part == part)
        if samples:
            return replace(manifest, samples=samples), f"the {part} part of the source"
    return manifest, "all pictures of the source"


def check_classes(manifest: Manifest, class_names: tuple[str, ...]) -> None:
    """Raise SourceError for a label the model has no output for."""
    unknown = sorted({sample.label for sample in manifest.samples} - set(class_names))
    if unknown:
        raise SourceError(
            "the pictures have classes that the model does not know",
            given=", ".join(map(repr, unknown[:5])),
            valid=f"{', '.join(class_names[:NUM_CLASSES_NAMED])}"
            + f" and {len(class_names) - NUM_CLASSES_NAMED} more"
            * (len(class_names) > NUM_CLASSES_NAMED),
            fix="name the classes as the model does, or leave those pictures out",
        )
