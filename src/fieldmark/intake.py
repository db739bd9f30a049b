"""A whole Fieldmark model out of weights from elsewhere: `fieldmark weights import`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from fieldmark import __version__
from fieldmark.assembly.network import (
    PER_CHANNEL,
    inherit,
    inherit_per_channel,
    options_apart,
    start_from,
)
from fieldmark.checkpoint import ModelInfo, save_model
from fieldmark.errors import ModelError, OutputError, RecipeError
from fieldmark.files import check_is_free
from fieldmark.models.contract import as_network
from fieldmark.models.fit import count_ends
from fieldmark.models.official import NUM_IMAGENET_CLASSES, imagenet_class_names
from fieldmark.models.own import is_own
from fieldmark.models.registry import check_options, create_model, sketch
from fieldmark.models.timm_sizes import check_admits, with_size
from fieldmark.pretrained import Pretrained, find_pretrained
from fieldmark.progress import Progress, console_progress
from fieldmark.recipe import Recipe, assemble
from fieldmark.types import Preprocess


def import_weights(
    weights: str,
    *,
    model: str | None = None,
    size: int | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make one .safetensors file of weights from elsewhere, as `fieldmark train` would leave it:
    with the network, its classes and its preprocess. `fieldmark predict` takes it as it is.

    Args:
        weights: as after `--weights`: published weights by name, a file, `hf:org/name`, a URL.
        model: the network; None where the weights say it themselves (Keras' files, the hub).
        size: height and width of the input, px; None takes what came with the weights.
        out: the file, which ends in .safetensors; None takes `NETWORK.safetensors` here.
        settings: `model.options.*`, and `data.*` for a preprocess that did not come with them.

    Raises:
        FieldmarkError: the weights cannot be had or do not fit, nobody says how pictures are to be
            made for them, or the file exists.
    """
    progress = progress or console_progress()
    recipe = assemble(None, {"size": size}, settings or {})
    if out is not None or model is not None:  # before anything is fetched
        check_is_free(_target(out, model or ""))
    found = find_pretrained(weights, model, progress)
    name = model or found.network
    if name is None:
        raise ModelError(
            "these weights do not say which network they are for",
            given=found.source,
            fix="name it with --model; `fieldmark models` lists them",
        )
    target = _target(out, name)
    check_is_free(target)
    recipe = replace(recipe, model=replace(recipe.model, name=name))
    apart = options_apart(recipe, found)
    if apart:
        raise ModelError(apart[0], given=found.source, fix="leave the option out")
    recipe, _ = inherit(recipe, found)

    network = _rebuild(name, recipe, found)
    progress.say(start_from(network, found, None))
    channels = as_network(network).in_channels
    recipe = recipe.with_settings({"data.channels": channels})
    recipe, _ = inherit_per_channel(recipe, found)
    info = ModelInfo(
        architecture=as_network(network).architecture,
        class_names=_class_names(recipe, found, as_network(network).num_classes, progress),
        preprocess=_preprocess(recipe, found.source),
        history={"fieldmark": __version__, "weights": found.source},
    )
    save_model(target, network, info)
    return target


def _target(out: str | Path | None, name: str) -> Path:
    if out is None:
        return Path(f"{name.replace('/', '-')}.safetensors")
    target = Path(out)
    if target.suffix.lower() != ".safetensors":  # under another it could not be read again
        raise OutputError(
            "a model is written as .safetensors, and found again by that",
            given=target,
            valid="NAME.safetensors",
            fix=f"--out {target.with_suffix('.safetensors')}" if target.name else None,
        )
    return target


def _rebuild(name: str, recipe: Recipe, found: Pretrained) -> nn.Module:
    """The network for its size, with as many outputs as the weights have, and as many channels
    where the recipe does not say."""
    options, size = check_options(name, recipe.model.options), recipe.data.size
    if size != "auto" and not is_own(name):
        options = with_size(name, options, size)
    num_classes, in_channels = count_ends(
        sketch(name, options), found.tensors, found.source, found.num_leading
    )
    if recipe.data.channels != "auto":
        in_channels = recipe.data.channels
    network = create_model(name, num_classes, in_channels, **options)
    if size != "auto":
        check_admits(as_network(network), size)
    return network


def _class_names(
    recipe: Recipe, found: Pretrained, num_classes: int, progress: Progress
) -> tuple[str, ...]:
    names = recipe.data.class_names or found.class_names
    if names is None and num_classes == NUM_IMAGENET_CLASSES:
        progress.say(
            "nobody says what the classes are: 1000 of them are taken for ImageNet's, in the usual "
            "order (--set data.class_names=... names others)"
        )
        return imagenet_class_names()
    if names is None:
        progress.say(
            "nobody says what the classes are: they are numbered "
            "(--set data.class_names=... names them)"
        )
        return tuple(f"class {number}" for number in range(num_classes))
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise RecipeError(
            "as many different class names as outputs are needed",
            given=f"{len(set(names))} names, {num_classes} outputs",
            fix='--set data.class_names=\'["first", "second"]\', in the order of the outputs',
        )
    return tuple(names)


def _preprocess(recipe: Recipe, source: str) -> Preprocess:
    data = recipe.data
    given = {field.name: getattr(data, field.name) for field in fields(Preprocess)}
    words = {word: value for word, value in given.items() if value != "auto"}
    missing = [word for word in ("size", *PER_CHANNEL) if word not in words]
    if missing:
        raise RecipeError(
            f"nobody says how pictures are made for these weights: {', '.join(missing)}",
            given=source,
            valid="what their authors name; [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225] are "
            "usual for ImageNet's, and wrong for some",
            fix="add " + " ".join(f"--set data.{word}=..." for word in missing),
        )
    return Preprocess(**words)
