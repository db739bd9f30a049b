"""The network's side of a verb: its weights, the words they decide, and the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldmark import __version__
from fieldmark.auto import Facts, settle
from fieldmark.checkpoint import ModelInfo, load_model, load_weights
from fieldmark.data.manifest import Manifest
from fieldmark.data.prepare import PreparedData
from fieldmark.errors import (
    CheckpointError,
    RecipeError,
)
from fieldmark.models.contract import Network, as_network
from fieldmark.models.own import is_own
from fieldmark.models.registry import check_options, create_model, model_card
from fieldmark.models.summary import Summary, summarize
from fieldmark.models.timm_bridge import TimmNetwork
from fieldmark.models.timm_sizes import check_admits, with_size
from fieldmark.models.timm_zoo import PREFIX, is_timm, unknown_model
from fieldmark.pretrained import Pretrained, check_named, find_pretrained
from fieldmark.progress import Progress
from fieldmark.recipe import Recipe, assemble, to_dict
from fieldmark.rundir import find_model
from fieldmark.training.history import EpochRow

PER_CHANNEL = ("mean", "std")


def check_weights(recipe: Recipe) -> None:
    """Refuse what can be refused before anything is looked at or fetched.

    Raises:
        RecipeError: the mode needs weights and none are named, or the other way round.
        FieldmarkError: what is named is nowhere on this machine, and nothing on the web either.
    """
    has_weights = recipe.model.weights != "none"
    if has_weights and recipe.mode == "scratch":
        raise RecipeError(
            "mode scratch starts from random weights, and others are named",
            given=f"weights = {recipe.model.weights}",
            fix="leave --mode out to fine-tune them, or leave --weights out",
        )
    if not has_weights and recipe.mode not in ("auto", "scratch"):
        raise RecipeError(
            f"mode {recipe.mode} starts from trained weights, and none are named",
            given='weights = "none"',
            valid="imagenet, a run, a file, hf:org/name, or https://...#sha256=HEX",
            fix="add --weights (`fieldmark models` says what is published for which network), or "
            "train with --mode scratch",
        )
    if has_weights:
        check_named(recipe.model.weights, recipe.model.name)


def find_weights(recipe: Recipe, progress: Progress) -> Pretrained | None:
    """The weights that the recipe starts from, fetched if need be; None to start from random ones.

    Raises:
        FieldmarkError: they cannot be found, fetched or read.
    """
    if recipe.model.weights == "none":
        return None
    return find_pretrained(recipe.model.weights, recipe.model.name, progress)


def inherit(recipe: Recipe, weights: Pretrained | None) -> tuple[Recipe, list[str]]:
    """Fill what the recipe leaves open with what came with the weights: weights trained on pictures
    made in one way are worth less on pictures made in another, or in a network built otherwise.
    """
    if weights is None:
        return recipe, []
    said = []
    options = {**weights.options, **recipe.model.options}
    if options != recipe.model.options:
        changed = [word for word in options if word not in recipe.model.options]
        said.append(f"options {', '.join(changed)}: of the network the weights were trained in")
    taken = {
        word: value
        for word, value in weights.preprocess.items()
        if getattr(recipe.data, word) == "auto" and word not in PER_CHANNEL
    }
    if taken:
        said.append(f"{', '.join(taken)}: as the weights were trained")
    recipe = replace(
        recipe,
        data=replace(recipe.data, **taken),
        model=replace(recipe.model, options=options),
    )
    return recipe, said


def inherit_per_channel(recipe: Recipe, weights: Pretrained | None) -> tuple[Recipe, list[str]]:
    """As `inherit`, for the words that have a value a channel, once their number is settled.

    Where it is not that of the weights every channel gets the average, as the first convolution
    gets the sum; and one channel has no order.
    """
    if weights is None:
        return recipe, []
    channels = recipe.data.channels
    assert isinstance(channels, int)
    taken: dict[str, Any] = {}
    for word in PER_CHANNEL:
        values = weights.preprocess.get(word)
        if values is not None and getattr(recipe.data, word) == "auto":
            own = tuple(map(float, values))
            average = round(sum(own) / len(own), 4)
            taken[word] = own if len(own) == channels else (average,) * channels
    said = [f"{', '.join(taken)}: as the weights were trained"] if taken else []
    if channels == 1 and weights.preprocess.get("channel_order") == "bgr":
        taken["channel_order"] = "rgb"
    return replace(recipe, data=replace(recipe.data, **taken)), said


def settle_for(recipe: Recipe, manifest: Manifest) -> tuple[Recipe, list[str]]:
    """Settle the recipe's "auto" words for these pictures and this network.

    Raises:
        ModelError: no such network or option, or it does not admit pictures of a given size.
    """
    name, options = recipe.model.name, check_options(recipe.model.name, recipe.model.options)
    network = _sketch(name, options)
    card = model_card(name)
    facts = Facts(
        all_grey=manifest.all_grey,
        typical_side_px=manifest.typical_side_px,
        min_size_px=network.min_size_px,
        only_size_px=network.fixed_size_px if isinstance(network, TimmNetwork) else None,
        has_norm=card.has_norm,
    )
    recipe, said = settle(recipe, facts)
    size = recipe.data.size
    assert isinstance(size, int)
    if not is_own(name):  # what ours admit is known; timm's are asked
        fitted = with_size(name, options, size)
        if fitted != options:
            said.append(f"img_size {size}: {name} is built for one size")
            recipe = replace(recipe, model=replace(recipe.model, options=fitted))
        check_admits(_sketch(name, fitted), size)
    return recipe, said


def _sketch(name: str, options: Mapping[str, Any]) -> Network:
    """A network without memory, for being asked what it admits."""
    with torch.device("meta"):
        return as_network(create_model(name, **options))


def summarize_named(
    model: str,
    *,
    classes: int | None,
    channels: int | None,
    size_px: int | None,
    settings: Mapping[str, Any],
) -> Summary:
    """The summary of a network by its name, or of a run's model; what is given comes on top.

    Raises:
        FieldmarkError: neither such a network nor such a run.
    """
    recipe = assemble(None, {"model": model, "size": size_px}, settings)
    file = None if is_own(model) else _find_run(model)
    if file is None:
        size = size_px or model_card(model).default_size_px
        options = check_options(model, recipe.model.options)
        if not is_own(model):
            options = with_size(model, options, size)
        with torch.device("meta"):
            network = create_model(
                model,
                num_classes=1000 if classes is None else classes,
                in_channels=3 if channels is None else channels,
                **options,
            )
        return summarize(network, channels=as_network(network).in_channels, size_px=size)
    network, info = load_model(file)
    if classes is not None:
        as_network(network).reset_classifier(classes)
    size = size_px or info.preprocess.size
    return summarize(network, channels=channels or info.preprocess.channels, size_px=size)


def _find_run(model: str) -> Path | None:
    """The model file that a word means; None where it can only be the name of a network."""
    try:
        return find_model(model)
    except CheckpointError as error:
        if is_timm(model):
            return None
        bare = model.removeprefix(PREFIX)
        if Path(bare).name == bare and not Path(model).exists():  # a bare word: meant as a name
            raise unknown_model(model) from error
        raise


def build_network(
    recipe: Recipe,
    weights: Pretrained | None,
    class_names: tuple[str, ...],
    progress: Progress,
) -> nn.Module:
    """The recipe's network for these classes, with these weights.

    Raises:
        ModelError: no such network or option.
        CheckpointError: the weights do not fit it.
    """
    assert isinstance(recipe.data.channels, int)
    model = create_model(
        recipe.model.name,
        num_classes=len(class_names),
        in_channels=recipe.data.channels,
        **recipe.model.options,
    )
    if weights is not None:
        classes = weights.classes(class_names)
        progress.say(load_weights(model, weights.tensors, weights.source, classes))
    return model


def model_info(
    model: nn.Module,
    data: PreparedData,
    recipe: Recipe,
    row: EpochRow,
    source_names: tuple[str, ...],
) -> ModelInfo:
    """What travels in the model file beside the weights."""
    return ModelInfo(
        architecture=as_network(model).architecture,
        class_names=data.manifest.class_names,
        preprocess=data.preprocess,
        history={
            "fieldmark": __version__,
            "recipe": to_dict(recipe),
            "epoch": row.epoch,
            "val_accuracy": row.val_accuracy,
            "num_train": len(data.train),
            "source_class_names": list(source_names),
        },
    )


def run_name(recipe: Recipe) -> str:
    """What a run is called when nobody says: the source and the network."""
    source = Path(recipe.source).resolve().stem or "pictures"
    return f"{source}-{recipe.model.name.replace('/', '-')}"
