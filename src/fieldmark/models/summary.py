"""What a network is made of, layer by layer, and what a picture costs in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fieldmark.models.contract import Network
from fieldmark.models.timm_bridge import TimmNetwork
from fieldmark.models.timm_sizes import check_admits
from fieldmark.models.twin import cpu_twin, meta_twin

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One call of one layer; or weights that belong to no layer, such as a class token.

    Attributes:
        name: the layer's place in the network, as in the state dict: `layer1.0.conv1`.
        kind: its class, such as `Conv2d`, or `Parameter`.
        stage: the network's stage it belongs to; empty for a module that names no stages.
        output_shape: without the batch: (c, h, w) for a map. Of several tensors, the first one's;
            empty where no tensor comes out. Of a `Parameter`, its own whole shape.
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
    weights: `model` stays as it is, and the largest network takes well under a second. A layer
    that needs numbers sends all of it to the CPU.

    Raises:
        ModelError: the network does not admit such a picture.
    """
    try:
        return _follow(meta_twin(model), channels, size_px)
    except NotImplementedError:  # what torch says where the meta device lacks an operation
        return _follow(cpu_twin(model), channels, size_px)
    except Exception:  # timm's fail in their own ways and words on sizes that do not fit
        if isinstance(model, TimmNetwork):
            check_admits(model, size_px)
        raise


def _follow(twin: nn.Module, channels: int, size_px: int) -> Summary:
    parameters = list(twin.parameters())
    num_trainable = sum(p.numel() for p in parameters if p.requires_grad)
    twin.requires_grad_(False)  # the counter of FLOPs asks inputs that want a gradient for theirs
    like = parameters[0] if parameters else torch.empty(0, device="meta")
    image_bchw = torch.zeros(1, channels, size_px, size_px, dtype=like.dtype, device=like.device)

    # timm's layers under timm's names, which are those in the state dict.
    body = twin.net if isinstance(twin, TimmNetwork) else twin
    names = {module: name for name, module in body.named_modules()}
    layers = {module for module, name in names.items() if _is_layer(module, whole=not name)}
    layers -= {inner for layer in layers for inner in layer.modules() if inner is not layer}
    stage_of = _stage_of(twin)
    rows: list[Row] = []
    waiting: list[Row] = []  # weights of no layer, until the first layer of their stage runs
    counted: set[nn.Module | nn.Parameter] = set()
    output_bytes = 0
    flops_before: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)

    def add(layer: nn.Module, output: object, flops: int) -> None:
        nonlocal output_bytes, waiting
        stage = stage_of.get(layer, "")
        rows.extend(row for row in waiting if row.stage == stage)
        waiting = [row for row in waiting if row.stage != stage]
        own = 0 if layer in counted else sum(p.numel() for p in layer.parameters())
        counted.add(layer)
        tensors = list(_tensors(output))
        output_bytes += sum(map(_bytes, tensors))
        shape = tuple(tensors[0].shape[1:]) if tensors else ()
        rows.append(Row(names[layer], type(layer).__name__, stage, shape, own, flops))

    def before(layer: nn.Module, inputs: object) -> None:
        flops_before[layer] = counter.get_total_flops()

    def after(layer: nn.Module, inputs: object, output: object) -> None:
        add(layer, output, counter.get_total_flops() - flops_before[layer])

    def enter(module: nn.Module, inputs: object) -> None:
        for name, parameter in module.named_parameters(names[module], recurse=False):
            if parameter not in counted:
                counted.add(parameter)
                stage = stage_of.get(parameter, stage_of.get(module, ""))
                shape = tuple(parameter.shape)
                waiting.append(Row(name, "Parameter", stage, shape, parameter.numel(), flops=0))

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        for layer in module.children():  # those that only their weights are taken from
            if layer in layers and layer not in counted and list(layer.parameters()):
                add(layer, None, flops=0)

    for module in names:
        if module in layers:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
        else:
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    with torch.no_grad(), counter:
        twin(image_bchw)
    rows.extend(waiting)

    return Summary(
        rows=tuple(rows),
        input_shape=(channels, size_px, size_px),
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable_parameters=num_trainable,
        flops=counter.get_total_flops(),
        input_mb=_bytes(image_bchw) / BYTES_PER_MB,
        activations_mb=output_bytes / BYTES_PER_MB,
        parameters_mb=sum(map(_bytes, parameters)) / BYTES_PER_MB,
    )


def _is_layer(module: nn.Module, *, whole: bool) -> bool:
    """Whether a module has a row of its own: nothing inside it, or nothing with weights, as in
    timm's batch norms that hold the activation that follows; a `whole` network has rows."""
    if not list(module.children()):
        return True
    inside = any(True for child in module.children() for _ in child.parameters())
    own = any(True for _ in module.parameters(recurse=False))
    return own and not inside and not whole


def _stage_of(model: nn.Module) -> dict[nn.Module | nn.Parameter, str]:
    """The stage of every module and every parameter, also of those inside others."""
    if not isinstance(model, Network):
        return {}
    stage_of: dict[nn.Module | nn.Parameter, str] = {}
    for stage, modules in model.stage_modules().items():
        for module in modules:
            stage_of.update(dict.fromkeys(module.modules(), stage))
            stage_of.update(dict.fromkeys(module.parameters(), stage))
    return stage_of


def _tensors(output: object) -> Iterator[Tensor]:
    """The tensors among what a layer gives back: one, several, or none."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.element_size()
