"""Writes what a run leaves behind: tables, figures and pictures of results computed elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fieldmark.data.loader import TrainLoader
from fieldmark.data.manifest import Manifest
from fieldmark.data.pixels.build import build_store
from fieldmark.data.pixels.form import Form
from fieldmark.data.prepare import draft_preprocess, labels_of, measured, training_form
from fieldmark.data.preprocess import Pixels, denormalize
from fieldmark.errors import SourceError
from fieldmark.evaluation.tables import confusion_csv, csv_text, predictions_csv
from fieldmark.examine import Evaluated
from fieldmark.figures.confusion import draw_confusion
from fieldmark.figures.contact_sheet import draw_contact_sheet
from fieldmark.figures.curves import draw_curves
from fieldmark.figures.fonts import lettering_for
from fieldmark.files import write_text
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.rundir import RunDirectory
from fieldmark.runtime import Runtime
from fieldmark.training.history import EpochRow
from fieldmark.types import LeftOut

NUM_SHOWN: Final = 20  # pictures on a contact sheet
MIXED_ALIKE: Final = 5  # of them; a batch draws one way of mixing, and people want to see several
CAPTION_COLUMNS: Final = 24  # a class name's share of the line under a picture


def write_history(run: RunDirectory, history: Sequence[EpochRow]) -> None:
    """`history.csv`, a row an epoch. Floats are written whole, so that equal runs compare equal."""
    rows = [[field.name for field in fields(EpochRow)], *(astuple(row) for row in history)]
    write_text(run.history, csv_text(rows))


def write_json(path: Path, values: Mapping[Any, Any]) -> None:
    """Readable JSON; refuses NaN, which no JSON reader must accept."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_curves(run: RunDirectory, history: Sequence[EpochRow], best: EpochRow) -> None:
    """`curves.png`: loss and accuracy of training and validation, the best epoch marked."""
    draw_curves(history, run.curves_png, best_epoch=best.epoch)


def write_evaluation(run: RunDirectory, evaluated: Evaluated, *, seed: int) -> None:
    """Tables and pictures of one evaluation: confusion matrix, predictions, a sheet of examples."""
    names, metrics = evaluated.class_names, evaluated.metrics
    write_text(run.confusion, confusion_csv(metrics.confusion_kk, names))
    paths = [sample.path for sample in evaluated.samples]
    labels = [sample.label for sample in evaluated.samples]
    text = predictions_csv(paths, labels, evaluated.probabilities_nk, names)
    write_text(run.predictions, text)
    draw_confusion(metrics.confusion_kk, names, run.confusion_png)
    write_prediction_sheet(run, evaluated, seed=seed)


def write_prediction_sheet(run: RunDirectory, evaluated: Evaluated, *, seed: int) -> None:
    """`predictions.png`: pictures drawn at random, each with its answer and whether it is right."""
    chosen = draw_indices(len(evaluated.samples), NUM_SHOWN, seed)
    names = drawable(evaluated.class_names)
    captions, marks = [], []
    for i in chosen:
        best = int(evaluated.probabilities_nk[i].argmax())
        label = evaluated.samples[i].label
        right = evaluated.class_names[best] == label
        answer = f"{names[best]} ({evaluated.probabilities_nk[i, best]:.0%})"
        truth = names[evaluated.class_names.index(label)]
        captions.append(answer if right else f"{answer}\nis {truth}")
        marks.append(right)
    pictures = list(evaluated.store.get_many(evaluated.indices_n[i] for i in chosen))
    accuracy = evaluated.metrics.accuracy
    some = f"{len(chosen)} of {accuracy.n} pictures at random; of all"
    shown = some if len(chosen) < accuracy.n else f"all {accuracy.n} pictures"
    title = f"{shown}, {accuracy.value:.1%} are right"
    draw_contact_sheet(pictures, captions, run.predictions_png, title=title, marks=marks)


def write_training_sheet(
    path: Path, loader: TrainLoader, class_names: Sequence[str], *, num: int = NUM_SHOWN
) -> None:
    """Training pictures with their labels, augmented and cropped as the network sees them."""
    names = drawable(class_names)
    pictures: list[Pixels] = []
    captions: list[str] = []
    for batch in loader.epoch(0):
        images_bchw = denormalize(batch.images_bchw, loader.preprocess).cpu()
        pictures += list(images_bchw.permute(0, 2, 3, 1).numpy())
        captions += [_shares(names, target) for target in batch.targets.tolist()]
        if len(pictures) >= num:
            break
    title = "training pictures as the network sees them"
    draw_contact_sheet(pictures[:num], captions[:num], path, title=title)


def _shares(names: Sequence[str], target: int | Sequence[float]) -> str:
    """The name of a label, or of the two of a mixed picture with their shares."""
    if isinstance(target, int):
        return names[target]
    seen = ((share, k) for k, share in enumerate(target) if share >= 0.005)  # else it says 0%
    shares = sorted(seen, reverse=True)
    if len(shares) == 1:
        return names[shares[0][1]]
    return "\n".join(f"{share:.0%} {names[k]}" for share, k in shares)


def write_source_sheet(
    path: Path, manifest: Manifest, recipe: Recipe, *, num: int, augmented: bool
) -> tuple[LeftOut, ...]:
    """Random labelled pictures of a source; returns those passed over, being unreadable.

    Args:
        recipe: settled; says how the pictures are cropped and augmented where that is asked for.

    Raises:
        SourceError: none of the pictures drawn can be read.
    """
    preprocess = draft_preprocess(recipe)
    chosen = draw_indices(len(manifest.samples), num, recipe.seed)
    cpu = torch.device("cpu")
    store = build_store(
        [manifest.samples[index] for index in chosen],
        training_form(recipe.augment, preprocess, cpu) if augmented else Form("crops", preprocess),
        strict=False,
        title="decoding",
        progress=Silent(),
    )
    if not len(store):
        raise SourceError(
            "none of the pictures drawn can be read",
            given="; ".join(f"{item.path}: {item.reason}" for item in store.left_out[:3]),
            fix="open one of them in a picture viewer to see what is wrong",
        )
    if augmented:
        labels = labels_of(store, manifest.class_names)
        loader = TrainLoader(
            store,
            labels,
            measured(preprocess, recipe, store),  # its mean is what moved pictures are filled with
            recipe.augment,
            Runtime(cpu),
            batch_size=MIXED_ALIKE,
            seed=recipe.seed,
            num_classes=len(manifest.class_names),
        )
        write_training_sheet(path, loader, manifest.class_names, num=num)
        return store.left_out
    pictures = list(store.get_many(range(len(store))))
    names = drawable(manifest.class_names)
    captions = [names[label] for label in labels_of(store, manifest.class_names)]
    title = f"{len(pictures)} of {len(manifest.samples)} pictures at random"
    draw_contact_sheet(pictures, captions, path, title=title)
    return store.left_out


def metrics_document(evaluated: Evaluated | None) -> dict[str, Any] | None:
    """The figures of a part as `metrics.json` holds them."""
    return None if evaluated is None else evaluated.metrics.to_dict()


def drawable(class_names: Sequence[str]) -> list[str]:
    """The class names as pictures can show them: short, and `#3` for what no font here draws."""
    return lettering_for(class_names).names(class_names, CAPTION_COLUMNS)


def draw_indices(total: int, num: int, seed: int) -> list[int]:
    """`num` of `total` positions (all, if there are fewer), at random, without repeats."""
    return [int(i) for i in np.random.default_rng(seed).permutation(total)[:num]]
