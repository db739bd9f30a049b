"""The networks by name: build one, or list them all with what they cost."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_type_hints

import torch
from torch import nn

from fieldmark.errors import ModelError, check_choice
from fieldmark.models.alexnet import AlexNet
from fieldmark.models.c3 import C3ResNet
from fieldmark.models.contract import as_network
from fieldmark.models.resnet import ResNet
from fieldmark.models.vgg import VGG

_NETWORKS: dict[str, type[AlexNet] | type[VGG] | type[ResNet] | type[C3ResNet]] = {
    **dict.fromkeys(AlexNet.variants, AlexNet),
    **dict.fromkeys(VGG.variants, VGG),
    **dict.fromkeys(ResNet.variants, ResNet),
    **dict.fromkeys(C3ResNet.variants, C3ResNet),
}
MODEL_NAMES: Final = tuple(_NETWORKS)  # family by family, small to large


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a network before it is built.

    Attributes:
        paper: where it is described.
        default_size_px: height and width of the input it was made for.
        min_size_px: the smallest height and width it admits, without options.
        has_norm: it has batch norm, so training looks at whole batches.
        num_parameters: with 1000 classes and 3 channels.
    """

    name: str
    family: str
    year: int
    paper: str
    default_size_px: int
    min_size_px: int
    has_norm: bool
    num_parameters: int


def create_model(
    name: str, num_classes: int = 1000, in_channels: int = 3, **options: Any
) -> nn.Module:
    """A network with freshly drawn weights (from torch's global generator), in training mode.

    It maps pictures (b, in_channels, h, w), float, to logits (b, num_classes), and keeps
    `fieldmark.models.contract.Network`. Its `architecture` says how to build it again, every
    option spelt out, so that a model file outlives a change of defaults.

    Raises:
        ModelError: unknown network or option, an option of the wrong type or out of range, or a
            count that is no whole number from 1 up.
    """
    settled = check_options(name, options, also=("num_classes", "in_channels"))
    model = _NETWORKS[name](name, num_classes, in_channels, **settled)
    model.architecture = {
        "name": name,
        "options": settled,
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    return model


def check_options(
    name: str, options: Mapping[str, Any], *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """All options of network `name`: those given, checked for their type, over the defaults.

    Args:
        also: what else the caller takes, and so may have been meant by an unknown option.

    Raises:
        ModelError: unknown network or option, or an option of the wrong type.
    """
    check_choice("model", name, MODEL_NAMES, error=ModelError)
    build = _NETWORKS[name].__init__
    hints = get_type_hints(build)
    settled = {
        parameter.name: parameter.default
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    settled.update(getattr(_NETWORKS[name].variants[name], "options", {}))
    for option, value in options.items():
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
    return settled


def list_models() -> list[ModelCard]:
    """The card of every network, family by family, small to large."""
    return [model_card(name) for name in MODEL_NAMES]


def model_card(name: str) -> ModelCard:
    """The card of one network.

    Raises:
        ModelError: no such network.
    """
    check_choice("model", name, MODEL_NAMES, error=ModelError)
    return _card(name)


@cache
def _card(name: str) -> ModelCard:
    network = _NETWORKS[name]
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
