"""The networks written out here under the names that torchvision and timm have for them.

A layout is a network's name elsewhere, the arguments that build it there, and the weights under
the keys it has there. Nothing is computed anew: tensors are renamed and reshaped, and where that
would not give the same function, it is an error. Knows names and tensors, no library.

torchvision's keys are ours, and so are those of timm's ResNets (checked with timm 1.0.31). timm's
VGGs keep the dense layers as convolutions, the first of them over the 7x7 map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from fieldmark.errors import ModelError
from fieldmark.models import resnet, vgg
from fieldmark.models.card import TIMM_PREFIX
from fieldmark.models.heads import check_exportable
from fieldmark.models.own import is_own

# VGG's layers with weights, ours -> timm's, and what the weights are shaped into there.
VGG_LAYERS: Final = {
    "classifier.0": ("pre_logits.fc1", (512, 7, 7)),
    "classifier.3": ("pre_logits.fc2", (4096, 1, 1)),
    "classifier.6": ("head.fc", (4096,)),
}
# timm's fc1 slides over a larger map and the answers are averaged; ours first averages the map to
# 7x7. From five halvings of this many px on the map is larger.
VGG_DIFFERS_FROM_PX: Final = 256
# What torchvision's and timm's ResNets are, in the words of our options.
PLAIN_RESNET: Final = {
    "conv_bias": False,
    "norm_shortcut": True,
    "stride_on_first_1x1": False,
    "pool_padding": 1,
    "norm_eps": 1e-5,
}


@dataclass(frozen=True, slots=True)
class Foreign:
    """A network as another library has it.

    Attributes:
        name: torchvision: a builder in `torchvision.models`, or the class `ResNet`. timm: a name
            of `timm.create_model`, without a tag.
        arguments: what the builder is given beside the class and channel counts; values that JSON
            can hold. A `block` is the name of a class in `torchvision.models.resnet`.
        tensors: the weights under the library's keys.
        renamed: layers that have another name there, ours -> theirs.
    """

    name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    renamed: Mapping[str, str] = field(default_factory=dict)


def to_torchvision(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Foreign:
    """The same function in torchvision, which has no argument for the channels: for other counts
    than 3 its first convolution is to be replaced.

    Args:
        architecture: as in `contract.Network`.
        tensors: the network's state dict.

    Raises:
        ModelError: torchvision has no such network; says who has.
    """
    check_exportable(architecture, "torchvision")
    name, options = str(architecture["name"]), architecture["options"]
    if not is_own(name):
        raise _not_there("torchvision", name, instead="timm, hf")
    if name in resnet.VARIANTS:
        _check_plain(name, options)
        plain = _plain_name(name)
        if plain == "resnet10":  # no builder there, but the class that builds the others
            arguments = {"block": "BasicBlock", "layers": _num_blocks(plain)}
            return Foreign("ResNet", arguments, dict(tensors))
        return Foreign(plain, {}, dict(tensors))
    if name in vgg.VARIANTS or (name == "alexnet" and not options.get("lrn", False)):
        dropout = options.get("dropout", 0.5)
        return Foreign(name, {} if dropout == 0.5 else {"dropout": dropout}, dict(tensors))
    raise _nowhere(name, options)


def to_timm(
    architecture: Mapping[str, Any], tensors: Mapping[str, Tensor], size_px: int | None = None
) -> Foreign:
    """The same function in timm, for pictures of `size_px` (None: whatever they are).

    Networks that are timm's keep their keys; their options are timm's arguments already. Ours may
    be asked for by more than one name there: `resnet10` is timm's `resnet18` with other `layers`.

    Raises:
        ModelError: timm has no such network, or not for pictures of this size; says who has.
    """
    check_exportable(architecture, "timm")
    name, options = str(architecture["name"]), architecture["options"]
    if not is_own(name):
        return Foreign(timm_name(name), dict(options), dict(tensors))
    if name in resnet.VARIANTS:
        _check_plain(name, options)
        plain = _plain_name(name)
        if plain == "resnet10":
            return Foreign("resnet18", {"layers": _num_blocks(plain)}, dict(tensors))
        return Foreign(plain, {}, dict(tensors))
    if name in vgg.VARIANTS:
        if size_px is not None and size_px >= VGG_DIFFERS_FROM_PX:
            raise ModelError(
                f"timm's {name} answers otherwise than ours on pictures this large: it averages "
                "the answers over the map, ours averages the map",
                given=f"{size_px} px",
                valid=f"less than {VGG_DIFFERS_FROM_PX} px; or --to torchvision, at any size",
                fix="take --to torchvision",
            )
        dropout = options.get("dropout", 0.5)
        renamed = {ours: theirs for ours, (theirs, _) in VGG_LAYERS.items()}
        arguments = {"drop_rate": dropout} if dropout else {}
        return Foreign(name, arguments, _vgg_to_timm(tensors), renamed)
    if name == "alexnet" and not options.get("lrn", False):
        raise _not_there("timm", name, instead="torchvision")
    raise _nowhere(name, options)


def from_timm(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's network `name` under our keys; unchanged where they have them already.

    Args:
        name: ours or timm's, with or without a tag: `vgg16`, `vgg16.tv_in1k`.
    """
    if timm_name(name) not in vgg.VARIANTS:
        return dict(tensors)
    ours = {theirs: layer for layer, (theirs, _) in VGG_LAYERS.items()}
    renamed = {}
    for key, value in tensors.items():
        layer, _, kind = key.rpartition(".")
        is_dense = layer in ours and kind == "weight"
        renamed[f"{ours.get(layer, layer)}.{kind}"] = value.flatten(1) if is_dense else value
    return renamed


def take_rgb(tensors: Mapping[str, Tensor], first_convs: Iterable[str]) -> dict[str, Tensor]:
    """The weights of a network that was given BGR, turned into those of one that is given RGB.

    Exact: the slices of the first convolutions change places, and no value changes.

    Args:
        first_convs: as in `contract.Network`.

    Raises:
        ModelError: there are none, so nothing can be turned.
    """
    first_convs = tuple(first_convs)
    if not first_convs:
        raise ModelError(
            "this network takes BGR, and has no first convolution that could be turned round",
            fix="train it again with data.channel_order=rgb to take it elsewhere",
        )
    turned = dict(tensors)
    for layer in first_convs:
        weight = turned[f"{layer}.weight"]
        assert weight.shape[1] == 3, (layer, weight.shape)
        turned[f"{layer}.weight"] = weight.flip(1).contiguous()
    return turned


def timm_name(name: str) -> str:
    """A network's bare name in timm: `timm/resnet18.a1_in1k` is `resnet18`."""
    return name.removeprefix(TIMM_PREFIX).partition(".")[0]


def _vgg_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in tensors.items():
        layer, _, kind = key.rpartition(".")
        theirs, shape = VGG_LAYERS.get(layer, (layer, None))
        is_dense = shape is not None and kind == "weight"
        renamed[f"{theirs}.{kind}"] = value.reshape(-1, *shape) if is_dense and shape else value
    return renamed


def _plain_name(name: str) -> str:
    return name.partition("_keras")[0]


def _num_blocks(name: str) -> list[int]:
    return list(resnet.VARIANTS[name].num_blocks)


def _check_plain(name: str, options: Mapping[str, Any]) -> None:
    settled = {**PLAIN_RESNET, **resnet.VARIANTS[name].options, **options}
    other = {word: settled[word] for word in PLAIN_RESNET if settled[word] != PLAIN_RESNET[word]}
    if other:
        raise _nowhere(name, other)


def _not_there(library: str, name: str, *, instead: str) -> ModelError:
    return ModelError(
        f"{library} has no {name} that these weights fit",
        given=f"--to {library}, for {name}",
        valid=instead,
        fix=f"take --to {instead.partition(',')[0]}",
    )


def _nowhere(name: str, options: Mapping[str, Any]) -> ModelError:
    shown = ", ".join(f"{word}={value}" for word, value in options.items())
    return ModelError(
        "neither torchvision nor timm has this network",
        given=f"{name} ({shown})" if shown else name,
        valid="alexnet (torchvision alone), vgg and resnet networks without options of their own, "
        "and timm's networks",
        fix="train one of these to take it elsewhere; Fieldmark itself needs no export",
    )
