"""Memory for batches, used again once nobody holds what lay in it.

New memory has to be given to the process page by page. For a batch of 32 pictures of 224 px in
floats, 19 MB, that takes a CPU as long as cutting the pictures does.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import torch


class Buffers:
    """Tensors of up to `num_bytes`, to be asked for from any thread.

    A tensor is the reader's for as long as it, or any view of it, is referred to: a reader that
    keeps every batch gets new memory for each.

    Args:
        num_kept: so many that nobody holds are kept for the next who ask.
    """

    def __init__(self, num_bytes: int, num_kept: int) -> None:
        self.num_bytes = num_bytes
        self._free: deque[torch.Tensor] = deque(maxlen=num_kept)

    def empty(self, num: int, channels: int, size_px: int, dtype: torch.dtype) -> torch.Tensor:
        """(num, channels, size_px, size_px) of any content, channels last in memory, on the CPU."""
        shape_bhwc = (num, size_px, size_px, channels)
        assert math.prod(shape_bhwc) * dtype.itemsize <= self.num_bytes
        try:
            whole = self._free.pop()
        except IndexError:
            whole = torch.empty(self.num_bytes, dtype=torch.uint8)
        # torch holds this array for as long as a tensor shares its memory, and tells nobody when it
        # lets go; the array does.
        lent = whole.numpy()
        weakref.finalize(lent, self._free.append, whole).atexit = False
        flat = torch.from_numpy(lent).view(dtype)
        return flat[: math.prod(shape_bhwc)].view(shape_bhwc).permute(0, 3, 1, 2)
