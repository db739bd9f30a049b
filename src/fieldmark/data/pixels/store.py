"""The pixel store: the pictures of a part, decoded, by position. `build` makes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fieldmark.data.pixels.form import Form
from fieldmark.data.pixels.holders import Holder, OnDevice
from fieldmark.data.preprocess import Pixels, to_batch
from fieldmark.types import LeftOut, Sample


@dataclass(frozen=True)
class PixelStore:
    """Decoded pictures of one part.

    Attributes:
        samples: the pictures that could be read, in the manifest's order.
        left_out: those that could not, each with its reason.
        form: how the pictures were decoded.
        holder: where they are.
        aspects_n: (n,) float64, width / height of what each picture shows, which a canvas does
            not tell by its own shape.
        num_found: how many of the pictures an earlier run had decoded.
    """

    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...]
    form: Form
    holder: Holder
    aspects_n: npt.NDArray[np.float64]
    num_found: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def is_uniform(self) -> bool:
        """Whether all pictures have one shape, so that `stack` can be asked."""
        return self.form.is_uniform

    def get(self, index: int) -> Pixels:
        """Picture number `index`, (h, w, c) uint8. Raises as `get_many`."""
        return next(self.get_many([index]))

    def get_many(self, indices: Iterable[int]) -> Iterator[Pixels]:
        """Pictures in the order of `indices`, a bounded number in memory at a time.

        Raises:
            SourceError: a picture has to be decoded again, and its file has changed or is gone.
        """
        return self.holder.take(list(indices))

    def stack(self, indices: Sequence[int]) -> torch.Tensor:
        """Pictures of a uniform store: (b, c, h, w) uint8, channels last in memory.

        On the device where the store is: nothing crosses the bus for a store on the GPU.

        Raises:
            SourceError: as `get_many`.
        """
        assert self.is_uniform, self.form
        if isinstance(self.holder, OnDevice):
            return self.holder.stack(indices)
        return to_batch(self.holder.take(indices))

    def aspects(self, indices: Sequence[int]) -> torch.Tensor:
        """(b,) float64: width / height of what these pictures show."""
        return torch.from_numpy(self.aspects_n[list(indices)])
