"""Weights that Keras wrote, under our names; Keras itself need not be installed.

Three networks are known, each by the names of its layers in Keras:

- `resnet50_keras2017`: `conv1, bn_conv1, res2a_branch2a, ..., fc1000`, the ResNet-50 that came with
  Keras 1 and 2 (`resnet50_weights_tf_dim_ordering_tf_kernels.h5`);
- `resnet50_keras`: `conv1_conv, conv1_bn, conv2_block1_0_conv, ..., predictions`, today's
  `keras.applications.ResNet50`;
- `vgg16`: `block1_conv1, ..., fc1, fc2, predictions`, `keras.applications.VGG16` ever since.

`.weights.h5` files of early Keras 3 do not say these names, only that a layer is the n-th
convolution. It is then the n-th in `Model.layers` of today's networks, which is how Keras reads
such a file as well. A network rebuilt by hand may have another order; its shapes then do not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import torch

from fieldmark.errors import CheckpointError
from fieldmark.models.keras_file import KerasFile, open_keras_file
from fieldmark.models.registry import create_model
from fieldmark.models.resnet import VARIANTS as RESNETS
from fieldmark.models.vgg import VARIANTS as VGGS

# What the published weights of all three want. BGR and the means, on the scale of 0 to 255, are
# those of keras.applications' `preprocess_input`, which has them from Caffe; nothing is divided,
# hence a std of one grey level. A crop of 224 px out of a short side of 256 is the usual test of
# these networks; Keras' own examples squash to 224 px instead.
KERAS_PREPROCESS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "size": 224,
        "resize": "crop",
        "crop_fraction": 224 / 256,
        "interpolation": "bilinear",
        "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255),
        "std": (1 / 255, 1 / 255, 1 / 255),
        "channel_order": "bgr",
    }
)
# As many as are believed, so that no file can ask for all memory; ImageNet-22k has 21,841.
MAX_CLASSES: Final = 100_000

Kind = Literal["conv", "norm", "dense"]

# A layer's weights in Keras' order. Keras 1 calls the last of a norm `running_std`, yet keeps the
# variance there: keras-team/keras issue 3484 shows it, and in pull request 5178 Keras' author puts
# the renaming off to Keras 2, where it is `moving_variance`.
WEIGHTS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "conv": ("weight", "bias"),
    "norm": ("weight", "bias", "running_mean", "running_var"),
    "dense": ("weight", "bias"),
}
CLASSES: Final[Mapping[Kind, str]] = {
    "conv": "conv2d",
    "norm": "batch_normalization",
    "dense": "dense",
}


@dataclass(frozen=True)
class KerasWeights:
    """What a Keras file gives.

    Attributes:
        network: the network it is for: resnet50_keras2017, resnet50_keras or vgg16.
        tensors: float32, by the names of that network's state dict.
        num_classes: outputs of the classifier.
        preprocess: the words of `types.Preprocess` that published weights of this network want.
            The file itself does not say; whoever trained it on other inputs must know.
    """

    network: str
    tensors: dict[str, torch.Tensor]
    num_classes: int
    preprocess: Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    name: str  # in Keras
    kind: Kind
    module: str  # here


@dataclass(frozen=True)
class Layout:
    network: str
    layers: tuple[Layer, ...]  # in the order of Keras' `Model.layers`
    num_top: int  # how many of them, at the end, are not there with include_top=False

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]


def read_keras_weights(path: Path) -> KerasWeights:
    """Read the weights of a whole network.

    Files without a classifier (`include_top=False`) are refused, so that no network comes about
    whose last layer is random without anybody having said so.

    Raises:
        CheckpointError: no such file, not HDF5 or damaged, not one of the networks above, a layer
            missing, unknown or of the wrong shape, made with Theano, or h5py is not installed.
    """
    with open_keras_file(path) as file:
        layout = _choose_layout(file)
        _check_layers(layout, file)
        num_classes = _count_classes(layout, file)
        _check_shapes(layout, file, num_classes)
        tensors = {}
        for layer in layout.layers:
            for number, part in enumerate(WEIGHTS[layer.kind]):
                weights = file.read(layer.name, number)
                tensors[f"{layer.module}.{part}"] = _to_ours(weights, layer)
        return KerasWeights(layout.network, tensors, num_classes, KERAS_PREPROCESS)


# The layouts


def _resnet50(network: str) -> Layout:
    of_2017 = network == "resnet50_keras2017"
    layers = [
        Layer("conv1" if of_2017 else "conv1_conv", "conv", "conv1"),
        Layer("bn_conv1" if of_2017 else "conv1_bn", "norm", "bn1"),
    ]
    for stage, num_blocks in enumerate(RESNETS[network].num_blocks, start=1):
        for i in range(num_blocks):
            ours, theirs = f"layer{stage}.{i}", f"conv{stage + 1}_block{i + 1}"
            parts = [("1", "conv1", "bn1"), ("2", "conv2", "bn2"), ("3", "conv3", "bn3")]
            # `Model.layers` goes by depth: the shortcut comes just before the last convolution.
            if i == 0:
                parts.insert(2, ("0", "downsample.0", "downsample.1"))
            for part, conv, norm in parts:
                names = (f"{theirs}_{part}_conv", f"{theirs}_{part}_bn")
                if of_2017:
                    branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[part]
                    place = f"{stage + 1}{'abcdef'[i]}_branch{branch}"
                    names = (f"res{place}", f"bn{place}")
                layers.append(Layer(names[0], "conv", f"{ours}.{conv}"))
                layers.append(Layer(names[1], "norm", f"{ours}.{norm}"))
    layers.append(Layer("fc1000" if of_2017 else "predictions", "dense", "fc"))
    return Layout(network, tuple(layers), num_top=1)


def _vgg16() -> Layout:
    layers, index = [], 0
    for block, num_convs in enumerate(VGGS["vgg16"].num_convs, start=1):
        for i in range(num_convs):
            layers.append(Layer(f"block{block}_conv{i + 1}", "conv", f"features.{index}"))
            index += 2  # the convolution and its relu
        index += 1  # the pooling
    for name, index in (("fc1", 0), ("fc2", 3), ("predictions", 6)):
        layers.append(Layer(name, "dense", f"classifier.{index}"))
    return Layout("vgg16", tuple(layers), num_top=3)


LAYOUTS: Final = (_resnet50("resnet50_keras2017"), _resnet50("resnet50_keras"), _vgg16())


def _by_class(layout: Layout) -> Layout:
    """The same, its layers named by class and counter: conv2d, conv2d_1, ..."""
    counts: dict[Kind, int] = dict.fromkeys(CLASSES, 0)
    layers = []
    for layer in layout.layers:
        number = counts[layer.kind]
        counts[layer.kind] += 1
        name = CLASSES[layer.kind] + (f"_{number}" if number else "")
        layers.append(replace(layer, name=name))
    return replace(layout, layers=tuple(layers))


# Which of them a file is, and whether it is all of that


def _choose_layout(file: KerasFile) -> Layout:
    # The network of 2017 is older than files without names.
    layouts = LAYOUTS if file.named else tuple(map(_by_class, LAYOUTS[1:]))

    def likeness(layout: Layout) -> float:
        both = file.layers.keys() & set(layout.names)
        return len(both) / len(file.layers.keys() | set(layout.names))

    best = max(layouts, key=likeness)
    if likeness(best) == 0:
        raise CheckpointError(
            "no network with these layers is known",
            given=f"{file.path}; layers: {_first(file.layers) or 'none'}",
            valid="; ".join(f"{layout.network} ({_first(layout.names)})" for layout in layouts),
            fix="give the weights of one of these networks, under Keras' own layer names",
        )
    return best


def _check_layers(layout: Layout, file: KerasFile) -> None:
    missing = [name for name in layout.names if name not in file.layers]
    unknown = [name for name in file.layers if name not in layout.names]
    if missing == layout.names[-layout.num_top :] and not unknown:
        raise CheckpointError(
            f"this file holds {layout.network} without its classifier (include_top=False)",
            given=f"{file.path}; missing: {_first(missing)}",
            valid="the weights of the whole network",
            fix="take the file without `notop` in its name, or save from include_top=True",
        )
    incomplete = [
        f"{layer.name} ({len(file.layers[layer.name])} of {len(WEIGHTS[layer.kind])})"
        for layer in layout.layers
        if layer.name in file.layers and len(file.layers[layer.name]) != len(WEIGHTS[layer.kind])
    ]
    _check_none_of(
        layout,
        file,
        {"missing layers": missing, "unknown layers": unknown, "not all weights": incomplete},
    )


def _count_classes(layout: Layout, file: KerasFile) -> int:
    classifier = layout.layers[-1]
    num_classes = (file.layers[classifier.name][1] or (0,))[0]  # as many as biases
    if not 1 <= num_classes <= MAX_CLASSES:
        raise CheckpointError(
            "the classifier is not of a size that makes sense",
            given=f"{file.path}; {classifier.name}: {num_classes:,} classes",
            valid=f"1 to {MAX_CLASSES:,} classes",
            fix="copy the file again from where it came, or save it again with Keras",
        )
    return num_classes


def _check_shapes(layout: Layout, file: KerasFile, num_classes: int) -> None:
    with torch.device("meta"):  # shapes without memory
        state = create_model(layout.network, num_classes=num_classes).state_dict()
    misshapen, num_theano = [], 0
    for layer in layout.layers:
        for part, given in zip(WEIGHTS[layer.kind], file.layers[layer.name], strict=True):
            ours = tuple(state[f"{layer.module}.{part}"].shape)
            wanted = _shape_in_keras(ours)
            if given != wanted:
                misshapen.append(f"{layer.name} {given} instead of {wanted}")
                num_theano += layer.kind == "conv" and given == ours
    # Theano has channels first, and, whatever the order of axes, turns kernels by half a turn.
    if num_theano or file.backend == "theano":
        raise CheckpointError(
            "these weights are in Theano's order, which is not read",
            given=f"{file.path}; {_first(misshapen) or 'backend: theano'}",
            valid="TensorFlow's order: (height, width, channels in, channels out)",
            fix="take the file with `tf_dim_ordering_tf_kernels` in its name",
        )
    _check_none_of(layout, file, {"wrong shapes": misshapen})


def _check_none_of(layout: Layout, file: KerasFile, findings: Mapping[str, list[str]]) -> None:
    if any(findings.values()):
        raise CheckpointError(
            f"this file is not what Keras writes for {layout.network}, the nearest network known",
            given=f"{file.path}; "
            + "; ".join(f"{what}: {_first(names)}" for what, names in findings.items() if names),
            valid=f"the {len(layout.layers)} layers of {layout.network}, and no others",
            fix="give the weights of the whole network as Keras built it, at 224 px and in colour",
        )


def _shape_in_keras(ours: tuple[int, ...]) -> tuple[int, ...]:
    if len(ours) == 4:
        num_out, num_in, height, width = ours
        return (height, width, num_in, num_out)
    return ours[::-1]  # a dense layer: (out, in) here, (in, out) there


def _to_ours(weights: torch.Tensor, layer: Layer) -> torch.Tensor:
    if weights.ndim == 4:
        return weights.permute(3, 2, 0, 1).contiguous()
    if layer.module == "classifier.0" and weights.ndim == 2:
        # Keras flattens VGG's last map as (h, w, c), torch as (c, h, w).
        weights = weights.reshape(7, 7, 512, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return weights.T.contiguous() if weights.ndim == 2 else weights


def _first(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
