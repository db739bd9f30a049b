"""Which sizes of pictures a network admits, asked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from fieldmark.errors import ModelError
from fieldmark.models.contract import Network, as_network
from fieldmark.models.timm_bridge import TimmNetwork, patch_sizes, sketch_timm
from fieldmark.models.twin import cpu_twin, meta_twin

STEP_PX = 32  # most networks halve the map five times
NUM_STEPS = 4  # tried on either side


def with_size(name: str, options: Mapping[str, Any], size_px: int) -> dict[str, Any]:
    """The options with which timm's network `name` admits pictures of `size_px`.

    Most transformers are built for one size; they get `img_size` where another one is wanted.

    Raises:
        ModelError: no such network or option, or it cannot be built for this size; says which
            sizes nearby it can be built for.
    """
    usual = sketch_timm(name, options)
    if usual.fixed_size_px in (None, size_px):
        return dict(options)

    def fits(px: int) -> bool:
        return px == usual.fixed_size_px or _can_be_built(name, {**options, "img_size": px}, px)

    if not fits(size_px):
        raise _unfit(name, size_px, usual, fits)
    return {**options, "img_size": size_px}


def _can_be_built(name: str, options: Mapping[str, Any], size_px: int) -> bool:
    try:
        network = sketch_timm(name, options)
    except ModelError:
        return False
    return _failure(network, size_px) is None


def check_admits(network: Network, size_px: int) -> None:
    """Send a picture without numbers through a copy of `network`.

    Raises:
        ModelError: it does not admit pictures of `size_px`; says which sizes nearby it does.
    """
    module = cast("nn.Module", network)
    failure = _failure(module, size_px)
    if failure is None:
        return
    if isinstance(failure, ModelError):  # our own checks have said it
        raise failure
    raise _unfit(
        network.name, size_px, network, lambda px: _failure(module, px) is None
    ) from failure


def _failure(model: nn.Module, size_px: int) -> Exception | None:
    """What a network says to a picture of this size; None if it goes through."""
    try:
        _run(meta_twin(model), size_px)
    except ModelError as error:
        return error
    except NotImplementedError:  # an operation that needs numbers
        try:
            _run(cpu_twin(model), size_px)
        except Exception as error:
            return error
    except Exception as error:  # each network fails in its own way and words
        return error
    return None


def _run(twin: nn.Module, size_px: int) -> None:
    parameter = next(twin.parameters())
    shape = (1, as_network(twin).in_channels, size_px, size_px)
    with torch.no_grad():
        twin(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device))


def _unfit(name: str, size_px: int, network: Network, fits: Callable[[int], bool]) -> ModelError:
    """The error, with the nearest sizes below and above that fit."""
    steps = {STEP_PX}
    if isinstance(network, TimmNetwork):
        steps |= patch_sizes(network.net)
    below, above = [], []
    for step in steps:
        first = size_px // step * step
        below += [
            px for px in range(first, max(0, first - NUM_STEPS * step), -step) if px < size_px
        ]
        above += [first + step * number for number in range(1, NUM_STEPS + 1)]
    nearby = [next((px for px in sorted(below, reverse=True) if fits(px)), None)]
    nearby.append(next((px for px in sorted(above) if fits(px)), None))
    found = [px for px in nearby if px is not None]
    usual_px = getattr(network, "default_size_px", None)
    if not found and usual_px is not None:
        found = [usual_px]
    nearest = min(found, key=lambda px: abs(px - size_px), default=None)
    return ModelError(
        f"{name} does not admit pictures of {size_px} px",
        given=f"size {size_px} px",
        valid=f"nearby: {' or '.join(map(str, found))} px" if found else None,
        fix=f"use --size {nearest}" if nearest else "use another size or another --model",
    )
