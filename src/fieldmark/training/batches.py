"""What a training takes its batches from: pictures, or features of pictures stored before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from fieldmark.data.loader import Batch


class TrainBatches(Protocol):
    """The training part, anew in every epoch.

    Attributes:
        labels_n: int64 class number of each picture, on the CPU.
    """

    labels_n: torch.Tensor

    def __len__(self) -> int:
        """Steps an epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch (0-based), in order."""


class EvalBatches(Protocol):
    """A part to be looked at: every picture once, in order, never augmented."""

    @property
    def num_pictures(self) -> int:
        """Pictures in the part."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
