"""Copies of a network that are only asked for shapes, and share no weights with it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def meta_twin(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device (shapes without numbers), in evaluation mode.

    `deepcopy` takes what its memo already holds instead of copying it, so giving it an empty
    tensor for each weight copies the modules alone and not half a gigabyte of numbers.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def cpu_twin(model: nn.Module) -> nn.Module:
    """A copy of `model` on the CPU, in evaluation mode, for what the meta device cannot run.

    What is without numbers becomes zeros: those are valid as indices, too.
    """

    def numbers(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return torch.zeros_like(tensor, device="cpu")
        return tensor.detach().to("cpu", copy=True)

    memo: dict[int, Any] = {
        id(p): nn.Parameter(numbers(p), requires_grad=p.requires_grad) for p in model.parameters()
    }
    memo |= {id(b): numbers(b) for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()
