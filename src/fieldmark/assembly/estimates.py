"""How long a training will take, said before it starts; and what fits into a given time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import nn

from fieldmark.assembly.heads import HEAD_FIRST_VIEWS
from fieldmark.assembly.network import build_network, only_size_px, settle_for
from fieldmark.budget.choose import BudgetFacts, choose_within
from fieldmark.budget.costs import Candidate, ModeEstimate, estimate_line
from fieldmark.data.manifest import Manifest
from fieldmark.models.registry import sketch
from fieldmark.pretrained import Pretrained
from fieldmark.progress import Progress, Silent, duration
from fieldmark.ranges import STORED
from fieldmark.recipe import WORDS, Recipe, TransferRecipe
from fieldmark.runtime import Runtime
from fieldmark.training.estimate import probe_mode

# Pixels that a training sees before an estimate is worth the seconds that it takes itself: as many
# as 2,000 pictures of 224 px have. What is below is over before the estimate would be.
WORTH_AN_ESTIMATE: Final = 100e6


def say_estimate(
    model: nn.Module,
    manifest: Manifest,
    recipe: Recipe,
    runtime: Runtime,
    progress: Progress,
    stores: bool = True,
) -> None:
    """Time and memory of a training, from a probe of a few seconds; nothing for a short one.

    Args:
        stores: where something is frozen, its features are stored; else it runs in every epoch.
    """
    size_px = recipe.data.size
    assert isinstance(size_px, int), "the recipe was not settled"
    views = recipe.transfer.views
    is_stored = stores and recipe.mode in STORED
    times_shown = max(1, int(views)) if is_stored else recipe.training.epochs
    num_shown = len(manifest.of_part("train")) * times_shown
    if num_shown * size_px**2 < WORTH_AN_ESTIMATE:
        return
    with progress.task("estimating", None):
        estimate = _probe(model, manifest, recipe, runtime, stores=stores)
    if runtime.device.type == "cuda":  # the peak of what follows is the training's
        torch.cuda.reset_peak_memory_stats(runtime.device)
    progress.say(f"estimate: {estimate_line(estimate, recipe.training.epochs)}")


def with_mode_meant(words: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """These words with the mode that one of them means, where a budget would choose it: stored
    views and folds there are in mode frozen."""
    said = [
        found
        for word in ("views", "folds")
        for found in (words.get(word), settings.get(WORDS[word]))
    ]
    means_frozen = any(value not in (None, "auto", 0) for value in said)
    is_open = words.get("mode") in (None, "auto") and settings.get("mode", "auto") == "auto"
    return {**words, "mode": "frozen"} if means_frozen and is_open else dict(words)


def fit_budget(
    seconds: float,
    recipe: Recipe,
    asked: Recipe,
    weights: Pretrained | None,
    manifest: Manifest,
    runtime: Runtime,
    progress: Progress,
    *,
    epochs_given: bool,
) -> Recipe:
    """The recipe with mode, views, size and epochs that fit into this time, and why said.

    Args:
        recipe: not settled, with what the weights bring.
        asked: as it was before that: what it says is kept.
        manifest: split, as it will most likely be.
        epochs_given: its epochs are asked for, too.
    """
    trained = weights is not None
    mode = None if asked.mode == "auto" else asked.mode
    if mode is None and _only_for_all_weights(asked.transfer):
        mode = "finetune"
    open_mode = {"mode": "frozen"} if trained and mode is None else {}
    usual = settle_for(recipe.with_settings(open_mode), manifest)[0]
    assert isinstance(usual.transfer.views, int)
    assert isinstance(usual.data.size, int)
    network = sketch(usual.model.name, usual.model.options)
    facts = BudgetFacts(
        trained,
        mode,
        usual.transfer.views,
        usual.data.size,
        usual.training.epochs,
        views_given=asked.transfer.views != "auto",
        size_given=asked.data.size != "auto",
        epochs_given=epochs_given,
        min_size_px=only_size_px(network) or network.min_size_px,
    )

    started = time.perf_counter()

    @cache
    def measure(candidate: Candidate) -> ModeEstimate:
        settled = settle_for(recipe.with_settings(candidate.settings), manifest)[0]
        model = build_network(settled, weights, manifest.class_names, Silent())
        with progress.task(f"measuring {candidate.mode} at {candidate.size} px", None):
            return _probe(model, manifest, settled, runtime)

    progress.say(f"budget {duration(seconds)}: a few short measurements decide how it is spent")
    choose_within(seconds, measure, facts)
    # Measuring took its part of the time.
    choice = choose_within(max(1.0, seconds - (time.perf_counter() - started)), measure, facts)
    for line in choice.said:
        progress.say(f"budget: {line}")
    return recipe.with_settings(choice.settings)


def _only_for_all_weights(transfer: TransferRecipe) -> bool:
    """Whether a word asks for what there is not where a head trains alone."""
    is_asked = transfer.unfreeze_every or transfer.stage_lr_decay != 1
    return bool(is_asked) or transfer.head_first is True


def _probe(
    model: nn.Module, manifest: Manifest, recipe: Recipe, runtime: Runtime, *, stores: bool = True
) -> ModeEstimate:
    views = recipe.transfer.views
    assert isinstance(views, int), "the recipe was not settled"
    if recipe.mode not in STORED:  # features are made for the head that comes first
        views = HEAD_FIRST_VIEWS if recipe.augment.preset != "none" else 0
    return probe_mode(
        model,
        recipe,
        runtime,
        len(manifest.of_part("train")),
        len(manifest.of_part("val")),
        len(manifest.class_names),
        features=stores and (recipe.mode in STORED or recipe.transfer.head_first is True),
        views=views,
    )
