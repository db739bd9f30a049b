"""What every network here promises, and the checks they share.

A network is a row of named stages, from the input to the output; freezing up to a stage needs to
know nothing else about it. In the networks written out here, running the modules of
`stage_modules()` one after another, stage after stage, is the network; timm's, which come through
`timm_bridge`, keep the rest of the contract, but may do something between two modules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from fieldmark.errors import ModelError


@runtime_checkable
class Network(Protocol):
    """The contract, beside being an `nn.Module`.

    Attributes:
        name: the name in the registry, such as `resnet18`.
        stages: names of the parts, input to output; the last one, `head`, holds the classifier.
        num_classes, in_channels: what it puts out and takes in.
        first_convs: where pictures come in: layers, by their names in the state dict, whose weights
            have one slice a channel, (out, in_channels, ...). One, but for a few of timm's.
        classifiers: the last layers, by their names in the state dict, whose outputs are the
            classes. One, but for a few of timm's; none where the features are the classes.
        min_size_px: the smallest height and width of a picture it admits.
        architecture: how `create_model` can build it again: name, options, num_classes,
            in_channels; plain values that JSON can hold.
    """

    name: str
    stages: tuple[str, ...]
    num_classes: int
    in_channels: int
    first_convs: tuple[str, ...]
    classifiers: tuple[str, ...]
    min_size_px: int
    architecture: dict[str, Any]

    def __call__(self, images_bchw: Tensor) -> Tensor:
        """Logits, shape (b, k)."""

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        """The modules of each stage in the order they run; together they hold every weight once.

        Weights that belong to no layer, such as a class token, come as an `nn.ParameterList`.
        """

    def forward_features(self, images_bchw: Tensor) -> Tensor:
        """Everything before the head: a map, shape (b, channels, height, width).

        Raises:
            ModelError: too small, not `in_channels` channels, not a batch, or not floating point.
        """

    def forward_head(self, features: Tensor) -> Tensor:
        """From what `forward_features` gives to logits, shape (b, k)."""

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh last layer with `num_classes` outputs in place, on the same device.

        Raises:
            ModelError: fewer than one class.
        """


def as_network(model: nn.Module) -> Network:
    """`model`, known to keep the contract.

    Raises:
        ModelError: it does not say its stages, classes or channels.
    """
    if not isinstance(model, Network):
        raise ModelError(
            "this module is not one of Fieldmark's networks",
            given=type(model).__name__,
            valid="a module that keeps fieldmark.models.contract.Network",
            fix="build the network with fieldmark.create_model",
        )
    return cast("Network", model)


def check_counts(*, num_classes: int, in_channels: int) -> None:
    """Raise ModelError unless both are whole numbers from 1 up."""
    for name, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        # bool is an int in Python; `num_classes=True` is a slip all the same.
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ModelError(
                f"{name} must be a whole number, 1 or more",
                given=repr(count),
                fix=f"set {name} to the number of "
                + ("classes" if name == "num_classes" else "channels: 1 for grey, 3 for colour"),
            )


def check_dropout(dropout: float) -> None:
    """Raise ModelError unless `dropout` is the share of a layer that can be dropped."""
    if not 0 <= dropout < 1:  # NaN ends here too
        raise ModelError(
            "dropout is out of range",
            given=dropout,
            valid="0 (none) up to, not including, 1",
            fix="0.5 is what the papers use",
        )


def check_norm_eps(norm_eps: float) -> None:
    """Raise ModelError unless batch norms can divide by the root of a variance plus this."""
    if not 0 < norm_eps < 1:  # NaN ends here too
        raise ModelError(
            "norm_eps is out of range",
            given=norm_eps,
            valid="a small number above 0",
            fix="1e-5 is torch's own",
        )


def check_images(network: Network, images_bchw: Tensor) -> None:
    """Raise ModelError where torch would fail later, deep in a layer and in its own words."""
    shape = tuple(images_bchw.shape)
    if len(shape) != 4:
        raise ModelError(
            f"{network.name} takes a batch of pictures",
            given=f"a tensor of shape {shape}",
            valid="shape (batch, channels, height, width)",
            fix="for one picture, give image[None]" if len(shape) == 3 else "check the shape",
        )
    if not images_bchw.is_floating_point():
        raise ModelError(
            f"{network.name} takes floating-point pictures",
            given=images_bchw.dtype,
            valid="float32, as the preprocess makes them",
            fix="divide by 255 and normalise with the mean and std the network was trained with",
        )
    if shape[1] != network.in_channels:
        raise ModelError(
            f"{network.name} was built for pictures with {network.in_channels} channels",
            given=f"{shape[1]} channels (shape {shape})",
            valid=f"shape (batch, {network.in_channels}, height, width)",
            fix=f"build the network with in_channels={shape[1]}, or convert the pictures",
        )
    smallest_px = network.min_size_px
    if shape[2] < smallest_px or shape[3] < smallest_px:
        raise ModelError(
            f"{network.name} needs pictures of at least {smallest_px} px",
            given=f"{shape[2]} px high, {shape[3]} px wide",
            valid=f"{smallest_px} px or more on both sides",
            fix=f"use --size {smallest_px} or more; `fieldmark models` lists what each admits",
        )


def check_norm_has_values(network: Network, images_bchw: Tensor, alone_px: int) -> None:
    """Raise ModelError where batch norm would have to learn from one value a channel.

    Args:
        alone_px: the side from which a picture alone leaves the last stage with more than one px.
    """
    num_pictures, _, height, width = images_bchw.shape
    last_stage = network.stage_modules()[network.stages[-2]]
    learns = any(
        module.training
        for top in last_stage
        for module in top.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )
    if learns and num_pictures == 1 and max(height, width) < alone_px:
        raise ModelError(
            f"{network.name} cannot train on a batch of one picture this small",
            given=f"1 picture, {height} px high, {width} px wide",
            valid=f"2 or more pictures, or a side of {alone_px} px or more",
            fix="use a larger --batch-size or --size; for prediction, call model.eval() first",
        )


def smallest_input_px(layers: Iterable[nn.Module], output_px: int = 1) -> int:
    """The smallest picture from which `layers` in a row still make a map of `output_px`.

    A convolution or pooling makes `floor((n + 2 padding - kernel) / stride) + 1` px of n px;
    read backwards, m px need `(m - 1) stride + kernel - 2 padding`, and never less than one.
    """
    size_px = output_px
    for layer in reversed(list(layers)):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):  # activations and norms keep the size
            kernel, stride, padding = map(_side, (layer.kernel_size, layer.stride, layer.padding))
            size_px = max(1, (size_px - 1) * stride + kernel - 2 * padding)
    return size_px


def _side(setting: object) -> int:
    """Convolutions keep their settings as (height, width), pooling as one number."""
    side = setting[0] if isinstance(setting, tuple) else setting
    assert isinstance(side, int)
    return side


def init_conv(conv: nn.Conv2d) -> None:
    """Start a convolution normal by He et al. (arXiv:1502.01852, fan-out), its biases zero."""
    if conv.weight.is_meta:  # no values there, and torch would load its compiler to draw none
        return
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def fresh_linear(old: nn.Linear, num_outputs: int) -> nn.Linear:
    """A new layer where `old` was: same inputs, device and dtype, torch's own initialisation."""
    return nn.Linear(old.in_features, num_outputs, device=old.weight.device, dtype=old.weight.dtype)
