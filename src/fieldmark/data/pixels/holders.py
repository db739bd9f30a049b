"""Where the pictures of a store are during a run: in memory, on the device, on disk, or nowhere.

A holder gives pictures by position and knows nothing of samples, parts and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch

from fieldmark.data.parallel import in_parallel
from fieldmark.data.pixels.packs import PackReader, Place
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

    def stack(self, indices: Sequence[int]) -> torch.Tensor:
        """(b, c, h, w) on the device, channels last in memory."""
        row_b = self.row_n[torch.as_tensor(indices, dtype=torch.int64)]
        images_bhwc = self.images_rhwc.index_select(0, row_b.to(self.images_rhwc.device))
        return images_bhwc.permute(0, 3, 1, 2)


class OnDisk:
    """Pictures read from the packs of the pixel cache whenever they are asked for.

    Args:
        places: where each lies, if it was found.
        decode: gives the picture at a position from its own file, where its pack is gone.
    """

    def __init__(self, places: Iterable[Place | None], decode: Callable[[int], Pixels]) -> None:
        self.places, self.decode, self.reader = tuple(places), decode, PackReader()

    def take(self, indices: Sequence[int]) -> Iterator[Pixels]:
        return in_parallel(self._read, indices)

    def _read(self, index: int) -> Pixels:
        place = self.places[index]
        pixels = None if place is None else self.reader.read(place)
        return self.decode(index) if pixels is None else pixels


class Streamed:
    """Nothing is kept: each picture is decoded whenever it is asked for."""

    def __init__(self, decode: Callable[[int], Pixels]) -> None:
        self.decode = decode

    def take(self, indices: Sequence[int]) -> Iterator[Pixels]:
        return in_parallel(self.decode, indices)
