"""The verbs as straight-line assembly: each reads like the list of what it does. No policy here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from fieldmark import __version__
from fieldmark.allocator import gives_memory_back
from fieldmark.assembly.beginning import look_and_divide, open_checked
from fieldmark.assembly.estimates import fit_budget, say_estimate, with_mode_meant
from fieldmark.assembly.heads import (
    check_folds,
    fit_logistic_head,
    predict_out_of_fold,
    start_from_head,
    without_needless_head,
)
from fieldmark.assembly.network import (
    build_network,
    find_weights,
    inherit,
    inherit_per_channel,
    model_info,
    run_name,
    settle_for,
)
from fieldmark.assembly.pictures import (
    Source,
    check_classes,
    draw_parts,
    find_samples,
    find_test_part,
    make_loaders,
    part_to_evaluate,
    scan_for,
    source_words,
)
from fieldmark.assembly.seen import say_shared_pictures, write_contents
from fieldmark.assembly.trainee import check_kept, prepare_trainee, whole
from fieldmark.budget.span import parse_budget
from fieldmark.checkpoint import load_model, save_model
from fieldmark.data.left_out import say_left_out
from fieldmark.data.manifest import write_manifest
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.prepare import decode_exactly, prepare_data
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import FieldmarkError
from fieldmark.evaluation.metrics import Metrics
from fieldmark.examine import Evaluated, evaluate_store
from fieldmark.files import check_is_free, free_path, write_text
from fieldmark.predict import Predictor, load
from fieldmark.progress import Progress, console_progress, duration
from fieldmark.ranges import STORED
from fieldmark.recipe import Recipe, Words, assemble, says_epochs, to_toml
from fieldmark.report import (
    metrics_document,
    write_curves,
    write_evaluation,
    write_history,
    write_json,
    write_source_sheet,
    write_training_sheet,
)
from fieldmark.rundir import RunDirectory, check_place, find_model, new_evaluation, new_run
from fieldmark.runtime import (
    describe_machine,
    open_runtime,
    seed_everything,
    translate_out_of_memory,
)
from fieldmark.training.history import EpochRow, rank
from fieldmark.training.loop import fit, freeze_for, parameters_line


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: the run directory.
        recipe: as settled.
        history: one row an epoch.
        best: the epoch whose weights were kept, by validation.
        val: figures of the kept weights on the validation part, which chose them.
        test: figures on the test part, looked at once; None with `val_is_val`.
    """

    path: Path
    recipe: Recipe
    history: tuple[EpochRow, ...]
    best: EpochRow
    val: Metrics
    test: Metrics | None

    def load(self, device: str = "auto") -> Predictor:
        """The kept model, ready to predict."""
        return load(self.path, device)


@gives_memory_back
def train(
    source: Source | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    budget: str | None = None,
    progress: Progress | None = None,
    **words: Unpack[Words],
) -> Run:
    """Train a classifier on labelled pictures, evaluate it once, and keep it in a run directory.

    Args:
        source: a folder, archive, manifest CSV, IDX folder, known name or hf:org/name; or
            (path, label[, part]) tuples. None takes the recipe's.
        recipe: a recipe or its TOML file; the words and settings given here come on top.
        settings: dotted recipe keys, {"training.label_smoothing": 0.1}.
        out, name: the run directory itself, or its name below `runs/`.
        budget: the time it may take, such as "10m": what is not given (mode, views, size, epochs)
            is chosen to fit.
        progress: where to report; None reports to the terminal.
        words: as on the command line; `fieldmark.recipe.Words` lists them with their types.

    Raises:
        FieldmarkError: something a user can put right; the message says how.
    """
    started = time.perf_counter()
    progress = progress or console_progress()
    epochs_given = recipe is not None or says_epochs(words, settings)
    given: dict[str, Any] = {"source": source_words(source), **words}
    recipe = assemble(recipe, {}, {})
    if budget is not None and recipe.mode == "auto":
        given = with_mode_meant(given, settings or {})
    recipe = assemble(recipe, given, settings or {})

    # What would be refused in the end is refused before anything is looked at.
    seconds = parse_budget(budget) if budget is not None else None
    runtime = open_checked(recipe)
    check_place(out, name)

    # The pictures, found and named; and the weights it starts from.
    found, source_names = find_samples(source, recipe, progress)
    weights = find_weights(recipe, progress)
    asked, (recipe, inherited) = recipe, inherit(recipe, weights)
    likely = draw_parts(found, recipe)  # as it will be split, if there are no copies
    if seconds is not None:
        left = seconds - (time.perf_counter() - started)
        recipe = fit_budget(
            left, recipe, asked, weights, likely, runtime, progress, epochs_given=epochs_given
        )

    # Looked at, and decoded while they are open; split; and every word settled that was left open.
    found, manifest, stored = look_and_divide(found, likely, recipe, runtime, progress)
    recipe, choices = settle_for(recipe, manifest)
    recipe, per_channel = inherit_per_channel(recipe, weights)
    for line in (*manifest.notes, *inherited, *per_channel, *choices):
        progress.say(line)

    # The network. Built before the pictures are decoded: a wrong option shows at once.
    seed_everything(recipe.seed)
    model = build_network(recipe, weights, manifest.class_names, progress)
    recipe = without_needless_head(recipe, asked, model, weights, progress)
    freeze_for(model, recipe)

    # The run directory, claimed before the long work so that the work cannot be lost for it.
    run = new_run(out, name, default_name=run_name(recipe))

    # Pixels, decoded once. Until that has gone well the directory stays empty, free for a retry.
    data = prepare_data(manifest, recipe, runtime, progress, stored_ahead=stored)
    write_text(run.recipe, to_toml(recipe))
    write_manifest(data.manifest, run.manifest)
    write_contents(run, data.manifest, progress)
    write_json(run.class_indices, dict(enumerate(data.manifest.class_names)))
    say_left_out(data.manifest.left_out, progress, run=run)
    train_loader, val_loader = make_loaders(data, recipe, runtime)
    write_training_sheet(run.pictures_png, train_loader, data.manifest.class_names)

    # The training.
    model = runtime.place_network(model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    progress.say(
        f"{recipe.model.name}, {parameters_line(model)}, on {runtime.device}; "
        f"{counted(len(train_loader), 'step')} an epoch; run {run.path}"
    )
    history: list[EpochRow] = []

    def keep(weights: nn.Module, row: EpochRow, is_best: bool) -> None:
        history.append(row)
        write_history(run, history)
        if is_best:
            info = model_info(model, data, recipe, row, source_names)
            save_model(run.model, whole(weights), info)

    try:
        with translate_out_of_memory(recipe.training.batch_size, data.preprocess.size):
            loaders = (train_loader, val_loader)
            estimate = partial(say_estimate, model, data.manifest, recipe, runtime, progress)
            if recipe.mode not in STORED:
                estimate()
            first = None
            if recipe.transfer.head_first:
                first = start_from_head(model, data, recipe, runtime, loaders, progress)
            trainee = prepare_trainee(
                model, data, recipe, runtime, loaders, progress, before_work=estimate
            )
            check_folds(trainee, recipe)
            fitted = None
            if recipe.transfer.head == "logistic" and recipe.mode == "frozen":
                result, fitted = fit_logistic_head(trainee, recipe, progress, keep)
            else:
                result = fit(*trainee.parts, recipe, runtime, progress, keep, first)
            if trainee.frozen and recipe.transfer.folds:
                predict_out_of_fold(run, trainee.frozen, data, recipe, runtime, fitted, progress)
    except (KeyboardInterrupt, FieldmarkError):
        if not history:
            progress.say(f"no epoch was finished: {run.path} holds no model")
        if run.model.is_file():  # else no epoch was finished, or there was no room for it
            write_curves(run, history, max(history, key=rank))
            progress.say(f"the best model so far is kept in {run.model}")
        raise
    assert result.best is not None
    if result.stopped:
        progress.say(f"stopped after epoch {result.history[-1].epoch}: {result.stopped}")
    write_curves(run, result.history, result.best)

    # The figures: of the file that was kept, not of what happens to be in memory, and in float32,
    # so that they are the same wherever the file is used.
    kept, _ = load_model(run.model)
    check_kept(kept, model, recipe)
    exact = open_runtime(str(runtime.device), "float32")
    kept = exact.place_network(kept)

    def look_at(store: PixelStore, title: str) -> Evaluated:
        frozen = trainee.frozen
        judged, batches = frozen.judge(kept, store, exact) if frozen else (kept, None)
        return evaluate_store(
            judged,
            store,
            data.manifest.class_names,
            data.preprocess,
            exact,
            progress,
            batch_size=recipe.training.batch_size,
            title=title,
            batches=batches,
        )

    val = look_at(data.val, "evaluating val")
    test = look_at(data.test, "evaluating test") if len(data.test) else None
    seconds = time.perf_counter() - started
    write_json(
        run.metrics,
        {
            "fieldmark": __version__,
            "test": metrics_document(test),
            "val": metrics_document(val),
            "best_epoch": asdict(result.best),
            "num_epochs": result.history[-1].epoch,
            "pictures": {
                "found": len(found.samples) + len(found.left_out),
                "train": len(data.train),
                "val": len(data.val),
                "test": len(data.test),
                "left_out": len(data.manifest.left_out),
                "not_needed": len(found.samples) - len(manifest.samples),  # train_limit
            },
            "num_parameters": num_parameters,
            "seconds": seconds,
            "machine": describe_machine(runtime),
        },
    )
    write_evaluation(run, test or val, seed=recipe.seed)
    progress.say(f"done in {duration(seconds)}; everything is in {run.path}")
    return Run(
        run.path,
        recipe,
        tuple(result.history),
        result.best,
        val.metrics,
        test.metrics if test else None,
    )


@dataclass(frozen=True)
class Evaluation:
    """A later look at a model: what it was shown, and how it did.

    Attributes:
        path: where tables and pictures are.
        what: the pictures, in words.
        metrics: the figures.
        left_out: pictures that could not be read.
    """

    path: Path
    what: str
    metrics: Metrics
    left_out: int


@gives_memory_back
def evaluate(
    run: str | Path,
    source: Source | None = None,
    *,
    out: str | Path | None = None,
    depth: int = 1,
    device: str = "auto",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run's model: on its own test part, or on the labelled pictures of `source`.

    Of a source with parts the test part is taken, else `val`, else all of it. Results go to
    `out`, else into the run: a free `evaluations/NAME-N`, called after the source.

    Raises:
        FieldmarkError: no such run or source, a class the model does not know, or a place that
            cannot be written.
    """
    progress = progress or console_progress()
    model_file = find_model(run)
    predictor = load(model_file, device)
    run_directory = RunDirectory(model_file.parent)
    if source is None:
        manifest, what = find_test_part(run_directory)
    else:
        manifest, what = part_to_evaluate(scan_for(predictor.info, source, progress, depth=depth))
        say_shared_pictures(manifest, run_directory, progress)
    check_classes(manifest, predictor.class_names)

    # Resolved: "." and ".." name no folder, and would lead out of evaluations/.
    name = "test" if source is None else Path(source_words(source) or "").resolve().stem
    target = new_evaluation(run_directory, out, default_name=name)
    store = decode_exactly(manifest, predictor.info.preprocess, predictor.runtime, progress)
    manifest = manifest.without(store.left_out)
    say_left_out(manifest.left_out, progress, run=target)
    evaluated = evaluate_store(
        predictor.model,
        store,
        predictor.class_names,
        predictor.info.preprocess,
        predictor.runtime,
        progress,
        batch_size=batch_size,
        title="evaluating",
    )
    left_out = len(manifest.left_out)
    document = {
        "fieldmark": __version__,
        "model": str(model_file),
        "pictures": what,
        "left_out": left_out,
        "test": metrics_document(evaluated),
        "machine": describe_machine(predictor.runtime),
    }
    write_json(target.metrics, document)
    write_evaluation(target, evaluated, seed=0)
    return Evaluation(target.path, what, evaluated.metrics, left_out)


def show(
    source: Source,
    out: str | Path | None = None,
    *,
    num: int = 20,
    augmented: bool = False,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **words: Unpack[Words],
) -> Path:
    """Draw a contact sheet of random labelled pictures; returns the path of the PNG.

    Args:
        out: the PNG to write; None takes `contact_sheet.png`, or `contact_sheet-2.png` and so on.
        num: how many pictures.
        augmented: as the network sees them in training, under the recipe's words.

    Raises:
        FieldmarkError: the source cannot be used, or `out` exists or cannot be written.
    """
    progress = progress or console_progress()
    if out is not None:
        check_is_free(Path(out))
    recipe = assemble(recipe, words, settings or {})
    manifest, _ = find_samples(source, recipe, progress)
    recipe, _ = settle_for(recipe, manifest)
    sheet = Path(out) if out is not None else free_path(Path("contact_sheet.png"))
    passed_over = write_source_sheet(sheet, manifest, recipe, num=num, augmented=augmented)
    say_left_out((*manifest.left_out, *passed_over), progress)
    return sheet
