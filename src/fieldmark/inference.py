"""Network in, batches in, logits out. Training, evaluation and prediction all come through here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from fieldmark.data.loader import Batch
from fieldmark.progress import Silent, Task
from fieldmark.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network said of a part, on the CPU.

    Attributes:
        logits_nk: float32.
        labels_n: int64, -1 where unknown.
        indices_n: int64 positions in the store; only pictures that were really seen are here.
    """

    logits_nk: torch.Tensor
    labels_n: torch.Tensor
    indices_n: torch.Tensor


def run_inference(
    model: nn.Module, batches: Iterable[Batch], runtime: Runtime, task: Task | None = None
) -> Outputs:
    """Run `model` in evaluation mode over all batches; leaves its mode as it was."""
    task = task or Silent()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    logits, labels, indices = [], [], []
    try:
        with torch.inference_mode():
            for batch in batches:
                with runtime.autocast():
                    logits_bk = model(batch.images_bchw)
                logits.append(logits_bk.float())
                labels.append(batch.labels_b)
                indices.append(batch.indices_b)
                task.advance(len(batch.indices_b))
            # One copy off the device at the end: a copy a batch would make it wait each time.
            return Outputs(
                torch.cat(logits).cpu() if logits else torch.empty(0, 0),
                torch.cat(labels).cpu() if labels else torch.empty(0, dtype=torch.int64),
                torch.cat(indices) if indices else torch.empty(0, dtype=torch.int64),
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
