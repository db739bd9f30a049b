"""Where the pictures of a store are during a run: in memory, on the device, on disk, or nowhere.

A holder gives pictures by position and knows nothing of samples, parts and labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch

from fieldmark.data.preprocess import Pixels


class Holder(Protocol):
    """Pictures by position, (h, w, c) uint8."""

    def take(self, indices: Sequence[int]) -> Iterator[Pixels]:
        """Pictures in the order of `indices`."""


class InMemory:
    """All pictures as arrays."""

    def __init__(self, pictures: Iterable[Pixels]) -> None:
        self.pictures = tuple(pictures)

    def take(self, indices: Sequence[int]) -> Iterator[Pixels]:
        return (self.pictures[index] for index in indices)


class OnDevice:
    """All pictures of one size as one tensor (rows, h, w, c) uint8 on a device.

    Args:
        row_n: the row of each picture; rows that no picture has were left empty.
    """

    def __init__(self, images_rhwc: torch.Tensor, row_n: Sequence[int]) -> None:
        self.images_rhwc = images_rhwc
        self.row_n = torch.as_tensor(row_n, dtype=torch.int64)

    def take(self, indices: Sequence[int]) -> Iterator[Pixels]:
        return iter(self.stack(indices).permute(0, 2, 3, 1).cpu().numpy())
