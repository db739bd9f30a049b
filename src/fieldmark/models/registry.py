"""The networks by name: build one, or list them all with what they cost.

A name is first looked for among the networks written out here, then among timm's, which may also
be named outright: `timm/resnet18`. Only then is timm imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

import torch
from torch import nn

from fieldmark.errors import ModelError, check_choice
from fieldmark.models.card import ModelCard
from fieldmark.models.contract import Network, as_network
from fieldmark.models.heads import HEAD_OPTIONS, head_options, put_hidden_layer
from fieldmark.models.own import MODEL_NAMES, NETWORKS, is_own
from fieldmark.models.timm_bridge import create_timm, sketch_timm
from fieldmark.models.timm_zoo import is_timm, list_timm_models, timm_card, unknown_model

__all__ = [
    "MODEL_NAMES",
    "ModelCard",
    "check_options",
    "create_model",
    "is_own",
    "list_models",
    "list_timm_models",
    "model_card",
    "sketch",
]


def create_model(
    name: str, num_classes: int = 1000, in_channels: int = 3, **options: Any
) -> nn.Module:
    """A network with freshly drawn weights (from torch's global generator), in training mode.

    It maps pictures (b, in_channels, h, w), float, to logits (b, num_classes), and keeps
    `fieldmark.models.contract.Network`. Its `architecture` says how to build it again, every
    option of our own networks spelt out, so that a model file outlives a change of defaults.

    Every network, timm's too, takes the options of `heads`: `head_hidden=512` puts a hidden layer
    in place of its classifier, with `head_dropout`.

    Raises:
        ModelError: unknown network or option, an option of the wrong type or out of range, or a
            count that is no whole number from 1 up.
    """
    if _is_timms(name):
        return create_timm(name, num_classes, in_channels, **options)
    settled = check_options(name, options, also=("num_classes", "in_channels"))
    own, head = head_options(name, settled)
    model = NETWORKS[name](name, num_classes, in_channels, **own)
    model.architecture = {
        "name": name,
        "options": own,
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    if head:
        put_hidden_layer(as_network(model), head["head_hidden"], head["head_dropout"])
    return model


def sketch(name: str, options: Mapping[str, Any]) -> Network:
    """A network without memory, for being asked what it admits and what its layers are called.

    Not to be changed: others may be given the same one.

    Raises:
        ModelError: unknown network or option.
    """
    if _is_timms(name):
        return as_network(sketch_timm(name, options))
    with torch.device("meta"):
        return as_network(create_model(name, **options))


def check_options(
    name: str, options: Mapping[str, Any], *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """All options of network `name`: those given, checked for their type, over the defaults.

    For timm's networks only those given; whether they are valid is found out by building one.

    Args:
        also: what else the caller takes, and so may have been meant by an unknown option.

    Raises:
        ModelError: unknown network or option, or an option of the wrong type.
    """
    if _is_timms(name):
        if not options:
            return {}
        return dict(sketch(name, options).architecture["options"])
    build = NETWORKS[name].__init__
    hints = get_type_hints(build)
    settled = {
        parameter.name: parameter.default
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    settled.update(getattr(NETWORKS[name].variants[name], "options", {}))
    options, head = head_options(name, options)
    for option, value in options.items():
        if not settled:
            raise ModelError(
                f"{name} has no options", given=repr(option), valid=also or None, fix="leave it out"
            )
        also = (*also, *HEAD_OPTIONS)
        check_choice(f"option of {name}", option, tuple(settled), also, error=ModelError)
        hint = hints[option]
        if hint is float and type(value) is int:
            value = float(value)
        if type(value) is not hint:
            words = {bool: "true or false", int: "a whole number", float: "a number"}[hint]
            raise ModelError(
                f"option {option} of {name} must be {words}",
                given=repr(value),
                fix=f"leave it out for the usual network ({option} = {settled[option]})",
            )
        settled[option] = value
    return settled | head


def list_models() -> list[ModelCard]:
    """The card of every network written out here, family by family, small to large."""
    return [model_card(name) for name in MODEL_NAMES]


def model_card(name: str) -> ModelCard:
    """The card of one network.

    Raises:
        ModelError: no such network.
    """
    return timm_card(name) if _is_timms(name) else _card(name)


def _is_timms(name: str) -> bool:
    """Whether `name` is timm's; False: ours.

    Raises:
        ModelError: neither ours nor timm's.
    """
    if is_own(name):
        return False
    if is_timm(name):
        return True
    raise unknown_model(name)


@cache
def _card(name: str) -> ModelCard:
    network = NETWORKS[name]
    with torch.device("meta"):  # shapes without memory: counting costs milliseconds
        model = create_model(name)
    variant = network.variants[name]
    return ModelCard(
        name=name,
        family=network.__name__,
        year=variant.year,
        paper=variant.paper,
        default_size_px=variant.default_size_px,
        min_size_px=as_network(model).min_size_px,
        has_norm=any(isinstance(module, nn.BatchNorm2d) for module in model.modules()),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
