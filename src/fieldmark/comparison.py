"""`fieldmark transfer`: one network trained in several modes on the same pictures, and compared."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Unpack

from fieldmark.api import train
from fieldmark.assembly.beginning import look_and_divide, open_checked
from fieldmark.assembly.mode_runs import (
    Comparison,
    ModeProgress,
    Results,
    check_comparison_place,
    find_place,
)
from fieldmark.assembly.modes import (
    choose_modes,
    part_words,
    recipe_of,
    with_published_weights,
    without_mode,
    without_weights,
)
from fieldmark.assembly.network import (
    find_weights,
    inherit,
    inherit_per_channel,
    run_name,
    settle_for,
)
from fieldmark.assembly.pictures import (
    Source,
    draw_parts,
    find_samples,
    source_words,
)
from fieldmark.data.left_out import say_left_out
from fieldmark.data.manifest import Manifest, write_manifest
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import FieldmarkError, RecipeError
from fieldmark.files import free_directory
from fieldmark.memory_peak import memory_peak
from fieldmark.progress import Progress, console_progress
from fieldmark.recipe import Recipe, Words, assemble
from fieldmark.rundir import RunDirectory
from fieldmark.runtime import describe_machine

EPOCHS: Final = 10


def compare_modes(
    source: Source | None = None,
    *,
    modes: Sequence[str] | None = None,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    **words: Unpack[Words],
) -> Comparison:
    """Train one network in several modes on the same parts for as many epochs, and compare them.

    Each mode is an ordinary run in the comparison's folder. A mode that fails is a row with its
    reason. What was broken off goes on when it is called again: finished modes are found by their
    recipes and parts. The size and the colours of pictures are the same in all modes, those of the
    weights where weights are named.

    Args:
        source, recipe, settings, progress, words: as `train` takes them, but no mode. 10 epochs
            where nobody says how many; the weights that are published for the network, where
            nobody names any ("none": none); without `freeze_through`, partial is frozen through
            the middle stage. Words that mean something in some modes alone are for these.
        modes: of scratch, frozen, partial, finetune; None takes all that are possible.
        out, name: the comparison's folder itself, or its name below `runs/`.

    Raises:
        TrainingError: no mode could be trained.
        FieldmarkError: something a user can put right; the message says how.
    """
    progress = progress or console_progress()
    for_all, of_some = part_words({"source": source_words(source), **words}, settings or {})
    nobody_names_weights = recipe is None and "model.weights" not in for_all
    if recipe is None:
        for_all = {"training.epochs": EPOCHS, **for_all}
    recipe, own_stage = without_mode(assemble(recipe, {}, for_all), progress)
    if recipe.data.val_is_val:
        raise RecipeError(
            "a comparison needs a test part, and with val_is_val there is none",
            given="data.val_is_val = true",
            fix="leave it out: val is then kept for the test, and validation drawn from train",
        )

    # What would be refused in the end is refused before anything is looked at.
    runtime = open_checked(recipe)
    check_comparison_place(out, name)
    weights = None
    if nobody_names_weights:
        recipe, weights = with_published_weights(recipe, progress)
    chosen, of_some = choose_modes(recipe, modes, of_some, own_stage, progress)

    # The pictures, looked at and divided once for all modes; and what the weights say of them.
    found, source_names = find_samples(source, recipe, progress)
    weights = weights or find_weights(recipe, progress)
    recipe, inherited = inherit(recipe, weights)
    likely = draw_parts(found, recipe)
    _, manifest, _ = look_and_divide(found, likely, recipe, runtime, progress)
    _check_has_test(manifest)
    for line in (*manifest.notes, *inherited):
        progress.say(line)

    # A recipe for each mode, settled; and the folder, where some may be finished already.
    recipes: dict[str, Recipe] = {}
    choices: dict[str, list[str]] = {}
    for mode in chosen:
        open_recipe = recipe_of(mode, recipe, of_some, "")
        settled, choices[mode] = settle_for(open_recipe, manifest)
        settled, per_channel = inherit_per_channel(settled, weights)
        # Left open: the training knows whether a classifier came with the weights.
        head_first = open_recipe.transfer.head_first
        recipes[mode] = replace(settled, transfer=replace(settled.transfer, head_first=head_first))
        choices[mode] += per_channel
    # The table has the source's own class names, which the recipe renames.
    table = manifest.renamed(source_names)
    folder, finished = find_place(out, name, f"{run_name(recipe)}-transfer", table, recipes)
    parts = RunDirectory(folder)
    if not parts.manifest.is_file():
        write_manifest(table, parts.manifest)
        say_left_out(table.left_out, progress, run=parts)
    elif finished:
        progress.say(f"{', '.join(finished)}: finished by an earlier call, in {folder}")

    # The trainings. After each one everything is written anew, so that nothing is lost.
    results = Results(folder, recipes, describe_machine(runtime))
    for mode, run in finished.items():
        results.add(mode, run, None)
    said: set[str] = {*manifest.notes, *inherited}
    todo = [mode for mode in chosen if mode not in finished]
    for position, mode in enumerate(todo):
        title = f"mode {len(finished) + position + 1} of {len(chosen)}, {mode}"
        title = title if len(chosen) > 1 else mode
        progress.say(f"\n{title}{results.time_left(todo[position:])}")
        reports = ModeProgress(progress, title, said)
        for line in choices[mode]:
            reports.say(line)
        run = RunDirectory(free_directory(folder / mode))
        try:
            with memory_peak(runtime.device) as peak:
                train(
                    recipe=replace(recipes[mode], source=str(parts.manifest)),
                    out=run.path,
                    progress=reports,
                )
        except KeyboardInterrupt:
            num_done = counted(len(results.runs), "finished mode")
            progress.say(
                f"{num_done} of {len(chosen)} kept in {folder}; the same command goes on from there"
            )
            raise
        except FieldmarkError as error:
            progress.say(f"{mode} failed: {error}")
            results.fail(mode, run, error)
        else:
            results.add(mode, run, peak.num_bytes, peak.what)
        gc.collect()  # networks hold each other in circles; the next mode wants their memory
    done = results.compared()
    if recipe.model.weights == "none":
        done = replace(done, advice=(*done.advice, without_weights(recipe)))
    return done


def _check_has_test(manifest: Manifest) -> None:
    if not manifest.of_part("test"):
        raise RecipeError(
            "a comparison needs a test part, and there is none",
            given="data.test_fraction = 0",
            fix="leave data.test_fraction out, or name a source with a test part",
        )
