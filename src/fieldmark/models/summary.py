"""What a network is made of, layer by layer, and what a picture costs in it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fieldmark.models.contract import Network

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One call of one layer.

    Attributes:
        name: the layer's place in the network, as in the state dict: `layer1.0.conv1`.
        kind: its class, such as `Conv2d`.
        stage: the network's stage it belongs to; empty for a module that names no stages.
        output_shape: without the batch: (c, h, w) for a map.
        num_parameters: counted at the first call of a layer that runs more than once.
        flops: for one picture, two for each multiply-add.
    """

    name: str
    kind: str
    stage: str
    output_shape: tuple[int, ...]
    num_parameters: int
    flops: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole network, for one picture. MB are millions of bytes.

    Attributes:
        rows: the layers in the order they run.
        input_shape: (c, h, w).
        flops: two for each multiply-add of convolutions and matrix products, biases not counted;
            norms, activations and pooling are small beside them and left out, as is usual.
        input_mb: the picture.
        activations_mb: the outputs of all rows together; layers that work in place count too.
        parameters_mb: the weights.
    """

    rows: tuple[Row, ...]
    input_shape: tuple[int, int, int]
    num_parameters: int
    num_trainable_parameters: int
    flops: int
    input_mb: float
    activations_mb: float
    parameters_mb: float


def summarize(model: nn.Module, *, channels: int, size_px: int) -> Summary:
    """Follow one picture, (channels, size_px, size_px), through `model`.

    Runs on the meta device (shapes without numbers), in evaluation mode, on a copy that shares no
    weights: `model` stays as it is, and the largest network takes well under a second.

    Raises:
        ModelError: the network does not admit such a picture.
    """
    twin = _meta_twin(model)
    parameters = list(twin.parameters())
    dtype = parameters[0].dtype if parameters else torch.float32
    image_bchw = torch.empty(1, channels, size_px, size_px, dtype=dtype, device="meta")

    stage_of = _stage_of(twin)
    rows: list[Row] = []
    counted: set[nn.Module] = set()
    output_bytes = flops_before = 0
    counter = FlopCounterMode(display=False)

    def before(layer: nn.Module, inputs: object) -> None:
        nonlocal flops_before
        flops_before = counter.get_total_flops()

    def after(layer: nn.Module, inputs: object, output: Any) -> None:
        nonlocal output_bytes
        own = 0 if layer in counted else sum(p.numel() for p in layer.parameters())
        counted.add(layer)
        output_bytes += output.numel() * output.element_size()
        row = Row(
            name=names[layer],
            kind=type(layer).__name__,
            stage=stage_of.get(layer, ""),
            output_shape=tuple(output.shape[1:]),
            num_parameters=own,
            flops=counter.get_total_flops() - flops_before,
        )
        rows.append(row)

    names = {layer: name for name, layer in twin.named_modules() if not list(layer.children())}
    for layer in names:
        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    with torch.no_grad(), counter:
        twin(image_bchw)

    return Summary(
        rows=tuple(rows),
        input_shape=(channels, size_px, size_px),
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        flops=counter.get_total_flops(),
        input_mb=_bytes(image_bchw) / BYTES_PER_MB,
        activations_mb=output_bytes / BYTES_PER_MB,
        parameters_mb=sum(map(_bytes, parameters)) / BYTES_PER_MB,
    )


def _meta_twin(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, in evaluation mode.

    `deepcopy` takes what its memo already holds instead of copying it, so giving it an empty
    tensor for each weight copies the modules alone and not half a gigabyte of numbers.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _stage_of(model: nn.Module) -> dict[nn.Module, str]:
    """The stage of every module, also of those inside others."""
    if not isinstance(model, Network):
        return {}
    return {
        inner: stage
        for stage, modules in model.stage_modules().items()
        for module in modules
        for inner in module.modules()
    }


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.element_size()
