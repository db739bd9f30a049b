"""Averaged weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights; batch-norm statistics follow the model.

    The decay starts low, (1 + t) / (10 + t), so that short runs are not held back by their
    random start (as in TensorFlow's ExponentialMovingAverage with num_updates).
    """
    if decay == 0:
        return None

    steps = itertools.count()

    def blend(
        averaged: Sequence[torch.Tensor],
        current: Sequence[torch.Tensor],
        num_averaged: torch.Tensor | int,  # not looked at: that would make a GPU wait
    ) -> None:
        t = next(steps) + 1
        share = 1 - min(decay, (1 + t) / (10 + t))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, share)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=False)
