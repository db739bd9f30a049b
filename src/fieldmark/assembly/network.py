"""The network's side of a verb: its weights, the words they decide, and the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldmark import __version__
from fieldmark.auto import SMALL_PICTURE_PX, Facts, settle
from fieldmark.checkpoint import ModelInfo, load_model, load_weights
from fieldmark.data.manifest import Manifest
from fieldmark.data.prepare import PreparedData
from fieldmark.errors import CheckpointError, ModelError, RecipeError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import has_linear_head, linear_classifier
from fieldmark.models.own import is_own
from fieldmark.models.registry import check_options, create_model, model_card, sketch
from fieldmark.models.summary import Summary, summarize
from fieldmark.models.timm_bridge import TimmNetwork
from fieldmark.models.timm_sizes import check_admits, with_size
from fieldmark.models.timm_zoo import PREFIX, is_timm, unknown_model
from fieldmark.pretrained import (
    Pretrained,
    check_named,
    find_pretrained,
    is_address,
    public_word,
)
from fieldmark.progress import Progress
from fieldmark.ranges import LINEAR_HEADS
from fieldmark.recipe import Recipe, assemble, to_dict
from fieldmark.rundir import find_model
from fieldmark.training.freeze import frozen_stages
from fieldmark.training.history import EpochRow

TINY_PX = 16  # half of what the smallest photos in use have, CIFAR's
PER_CHANNEL = ("mean", "std")
NO_OTHER_FUNCTION = ("drop", "img_size", "head_hidden")  # options with these in their names


def check_network(recipe: Recipe) -> None:
    """Refuse an unknown network or option before anything is looked at or fetched.

    Raises:
        ModelError: no such network or option.
    """
    recipe = with_head(recipe)
    name, options = recipe.model.name, check_options(recipe.model.name, recipe.model.options)
    if is_own(name) and recipe.model.weights != "none":  # which bring options of their own
        options = {}
    frozen_stages(sketch(name, options), recipe)  # or says which there are


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
            given=f"weights = {public_word(recipe.model.weights)}",
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
    word = recipe.model.weights
    if is_address(word) and public_word(word) != word.strip():
        progress.say(
            "the address of the weights has a user or a query in it; recipe.toml keeps it as it "
            "is: if there is a token in it, do not hand that file on"
        )
    return find_pretrained(word, recipe.model.name, progress)


def inherit(recipe: Recipe, weights: Pretrained | None) -> tuple[Recipe, list[str]]:
    """Fill what the recipe leaves open with what came with the weights: weights trained on pictures
    made in one way are worth less on pictures made in another, or in a network built otherwise.
    """
    if weights is None:
        name = recipe.model.name
        if is_own(name) or "." not in name:
            return recipe, []
        tag = name.partition(".")[2]
        return recipe, [f"{tag}, in the network's name, loads no weights: add --weights {tag}"]
    said = []
    options = {**weights.options, **recipe.model.options}
    hidden = options.get("head_hidden", 0)
    if recipe.transfer.head in LINEAR_HEADS and hidden != weights.options.get("head_hidden", 0):
        raise RecipeError(
            "the hidden layer of the head would stay as it was drawn",
            given=f"head_hidden = {hidden}, which the weights do not have, and transfer.head = "
            f"{recipe.transfer.head}, for which the last layer trains alone",
            fix="take --head mlp, or leave head_hidden out",
        )
    if options != recipe.model.options:
        changed = [word for word in options if word not in recipe.model.options]
        said.append(f"options {', '.join(changed)}: of the network the weights were trained in")
    said += options_apart(recipe, weights)
    taken = {
        word: value
        for word, value in weights.preprocess.items()
        if getattr(recipe.data, word) == "auto" and word not in PER_CHANNEL
    }
    if taken:
        said.append(f"{', '.join(taken)}: as the weights were trained")
    if not weights.preprocess and "auto" in (recipe.data.mean, recipe.data.std):
        said.append(
            "WARNING: nobody says how pictures were made for these weights; mean and std are "
            "measured on yours. Where their authors name them, --set 'data.mean=[...]' and "
            "'data.std=[...]' do better"
        )
    recipe = replace(
        recipe,
        data=replace(recipe.data, **taken),
        model=replace(recipe.model, options=options),
    )
    return recipe, said


def options_apart(recipe: Recipe, weights: Pretrained) -> list[str]:
    """A sentence for each option of the recipe's own with which the network is another function
    than the one the weights were trained in; none where nobody says how that was built."""
    name = recipe.model.name
    if weights.network is None and not weights.options:
        return []
    usual = check_options(name, {}) if is_own(name) else {}
    known = {**usual, **weights.options}
    return [
        f"option {word}={value} differs from the network the weights were trained in "
        f"({known.get(word, 'where it was left out')}): they compute something else there"
        for word, value in recipe.model.options.items()
        if not any(part in word for part in NO_OTHER_FUNCTION)
        and (word not in known or known[word] != value)
    ]


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
    recipe = with_head(recipe)
    name, options = recipe.model.name, check_options(recipe.model.name, recipe.model.options)
    network = sketch(name, options)
    if recipe.transfer.head in LINEAR_HEADS and linear_classifier(network) is None:
        raise RecipeError(
            f"{name} does not end in one linear layer",
            given=f"transfer.head = {recipe.transfer.head}",
            valid=["own"],
            fix="take --head own, or a network that ends in one, such as resnet18",
        )
    card = model_card(name)
    facts = Facts(
        all_grey=manifest.all_grey,
        typical_side_px=manifest.typical_side_px,
        min_size_px=network.min_size_px,
        only_size_px=only_size_px(network),
        has_norm=card.has_norm,
        has_batch_norm=has_batch_norm(network),
        has_linear_head=has_linear_head(network) or recipe.transfer.head in LINEAR_HEADS,
        # Pictures that are only shown are in no part.
        num_train=len(manifest.of_part("train")) or len(manifest.samples),
    )
    recipe, said = settle(recipe, facts)
    size = recipe.data.size
    assert isinstance(size, int)
    if size < TINY_PX and manifest.typical_side_px > SMALL_PICTURE_PX:
        said.append(
            f"WARNING: at size {size} px next to nothing is left of pictures that are typically "
            f"{manifest.typical_side_px} px; {name} is made for {card.default_size_px} px"
        )
    if not is_own(name):  # what ours admit is known; timm's are asked
        fitted = with_size(name, options, size)
        if fitted != options:
            said.append(f"img_size {size}: {name} is built for one size")
            recipe = replace(recipe, model=replace(recipe.model, options=fitted))
            network = sketch(name, fitted)
        check_admits(network, size)
    return recipe, said


def has_batch_norm(network: Network) -> bool:
    """Whether statistics of batches are among what it learns."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        for tops in network.stage_modules().values()
        for top in tops
        for module in top.modules()
    )


def only_size_px(network: Network) -> int | None:
    """The one input size that a network is built for; None where it takes many."""
    return network.fixed_size_px if isinstance(network, TimmNetwork) else None


def with_head(recipe: Recipe) -> Recipe:
    """`transfer.head = mlp` as the option of the network that it stands for."""
    if recipe.transfer.head != "mlp":
        return recipe
    options = {**recipe.model.options, "head_hidden": recipe.transfer.hidden}
    return replace(recipe, model=replace(recipe.model, options=options))


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
    size = None if recipe.data.size == "auto" else recipe.data.size
    if recipe.data.channels != "auto":
        channels = recipe.data.channels
    file = None if is_own(model) else _find_run(model)
    if file is None:
        size = size or model_card(model).default_size_px
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
    size = size or info.preprocess.size
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
        progress.say(start_from(model, weights, class_names))
    return model


def start_from(model: nn.Module, weights: Pretrained, class_names: tuple[str, ...] | None) -> str:
    """As `checkpoint.load_weights`; weights that fit at the network's usual size alone say so.

    Raises:
        CheckpointError: the weights do not fit.
    """
    classes = weights.classes(class_names)
    try:
        return load_weights(model, weights.tensors, weights.source, classes)
    except CheckpointError as error:
        architecture = as_network(model).architecture
        size = architecture["options"].get("img_size")
        usual = None if size is None else _usual_size_that_fits(architecture, weights)
        if usual is None:
            raise
        raise CheckpointError(
            f"these weights are for {usual} px only: {architecture['name']} learns a table for "
            "its size that cannot be made for another",
            given=f"{weights.source}; size {size} px",
            valid=f"{usual} px",
            fix=f"--size {usual}",
        ) from error


def _usual_size_that_fits(architecture: Mapping[str, Any], weights: Pretrained) -> int | None:
    """The size that the network has without `img_size`, px, if the weights fit it there."""
    options = {word: v for word, v in architecture["options"].items() if word != "img_size"}
    try:
        usual = create_model(
            architecture["name"],
            architecture["num_classes"],
            architecture["in_channels"],
            **options,
        )
        load_weights(usual, weights.tensors, weights.source, weights.classes(None))
    except (CheckpointError, ModelError):
        return None
    return usual.fixed_size_px if isinstance(usual, TimmNetwork) else None


def model_info(
    model: nn.Module,
    data: PreparedData,
    recipe: Recipe,
    row: EpochRow,
    source_names: tuple[str, ...],
) -> ModelInfo:
    """What travels in the model file beside the weights."""
    told = replace(recipe, model=replace(recipe.model, weights=public_word(recipe.model.weights)))
    return ModelInfo(
        architecture=as_network(model).architecture,
        class_names=data.manifest.class_names,
        preprocess=data.preprocess,
        history={
            "fieldmark": __version__,
            "recipe": to_dict(told),  # others get this file: no token in it
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
