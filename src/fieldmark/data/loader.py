"""Batches from a pixel store, prepared by a thread ahead of the step. No worker processes.

What is in a batch depends on (seed, epoch, position) alone: not on how far ahead the thread
runs, nor on what happened in earlier epochs, nor on whether this one began in its middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import torch

from fieldmark.data.augment.apply import (
    augment_batch,
    crop_canvases,
    crop_pictures,
    crops_randomly,
    mix_by_recipe,
    uncropped,
)
from fieldmark.data.augment.crop import Map, new_batch
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import normalize
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess

PREFETCH: Final = 2  # batches ahead; more only takes memory
MOST_THREADS: Final = 8  # of those that crop and change the pictures of one batch


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures ready for the network, on its device.

    Attributes:
        images_bchw: normalised float32.
        labels_b: int64 class numbers; -1 where the label is unknown.
        indices_b: int64 positions in the store, on the CPU.
        soft_bk: float32, what each class is to get where pictures are mixed, each row of sum 1;
            None where they are not. `labels_b` are then those of the pictures mixed into.
    """

    images_bchw: torch.Tensor
    labels_b: torch.Tensor
    indices_b: torch.Tensor
    soft_bk: torch.Tensor | None = None

    @property
    def targets(self) -> torch.Tensor:
        """What the loss takes: (b,) labels, or (b, k) soft targets of mixed pictures."""
        return self.labels_b if self.soft_bk is None else self.soft_bk


class TrainLoader:
    """Shuffled, augmented batches of the training pictures, anew each epoch.

    Args:
        store: pictures stored for crops (or as canvases, to be cropped on the device), or exactly
            when `augment` has no random crop.
        labels: class number of each picture in the store.
        batch_size: pictures a batch. The last one is smaller; if it would hold a single picture
            that picture joins the batch before, as batch norm cannot learn from one.
        sampling: "shuffle" shows every picture once an epoch; "balanced" draws with replacement
            so that every class comes equally often.
        num_classes: what soft targets are wide; without it, up to the largest label.
    """

    def __init__(
        self,
        store: PixelStore,
        labels: Sequence[int],
        preprocess: Preprocess,
        augment: AugmentRecipe,
        runtime: Runtime,
        *,
        batch_size: int,
        seed: int,
        sampling: Literal["shuffle", "balanced"] = "shuffle",
        num_classes: int | None = None,
    ) -> None:
        self.store, self.preprocess, self.augment = store, preprocess, augment
        self.labels_n = torch.as_tensor(labels, dtype=torch.int64)
        self.runtime, self.batch_size = runtime, batch_size
        self.seed, self.sampling = seed, sampling
        if num_classes is None:
            num_classes = int(self.labels_n.max()) + 1 if len(self.labels_n) else 0
        self.num_classes = num_classes

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(_batch_slices(len(self.store), self.batch_size))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (0-based), in order, from number `start` on.

        A training that goes on in mid-epoch gets the batches it would have had.
        """
        order_n = self.order(epoch)
        slices = _batch_slices(len(order_n), self.batch_size)
        num_threads = min(torch.get_num_threads(), MOST_THREADS)
        # Crops are written to the same memory batch after batch: it never leaves this epoch.
        most = max((part.stop - part.start for part in slices), default=0)
        room_bchw = new_batch(most, self.preprocess.channels, self.preprocess.size)
        with ThreadPoolExecutor(num_threads, thread_name_prefix="fieldmark-augment") as pool:
            prepare = partial(self._prepare, epoch=epoch, run=pool.map, room_bchw=room_bchw)
            yield from _ahead(
                partial(prepare, order_n[slices[position]], position)
                for position in range(start, len(slices))
            )

    def order(self, epoch: int) -> torch.Tensor:
        """(n,) positions in the order in which `epoch` shows them."""
        generator = batch_generator(self.seed, epoch)
        num = len(self.store)
        if self.sampling == "shuffle":
            return torch.randperm(num, generator=generator)
        counts_k = torch.bincount(self.labels_n)
        weights_n = 1.0 / counts_k[self.labels_n]
        return torch.multinomial(weights_n, num, replacement=True, generator=generator)

    def _prepare(
        self,
        indices_b: torch.Tensor,
        position: int,
        *,
        epoch: int,
        run: Map,
        room_bchw: torch.Tensor,
    ) -> Batch:
        # + 1: SeedSequence takes (seed, epoch) and (seed, epoch, 0) for the same.
        generator = batch_generator(self.seed, epoch, position + 1)
        images_bchw = self._crop(indices_b.tolist(), generator, run, room_bchw)
        images_bchw = augment_batch(
            images_bchw, self.augment, generator, fill=self.preprocess.mean, run=run
        )
        images_bchw = _ready(images_bchw, self.preprocess, self.runtime)
        labels_b = self.runtime.place(self.labels_n[indices_b])
        images_bchw, targets = mix_by_recipe(
            images_bchw, labels_b, self.num_classes, self.augment, generator
        )
        return Batch(images_bchw, labels_b, indices_b, None if targets is labels_b else targets)

    def _crop(
        self, indices: list[int], generator: torch.Generator, run: Map, room_bchw: torch.Tensor
    ) -> torch.Tensor:
        """(b, c, size, size) uint8 on the device: cropped where it is quickest, if at all."""
        store, size_px, augment = self.store, self.preprocess.size, self.augment
        if crops_randomly(augment) and not store.is_uniform:
            pictures = list(store.get_many(indices))
            cropped_bchw = crop_pictures(pictures, size_px, augment, generator, run, room_bchw)
            return self.runtime.place(cropped_bchw)
        images_bchw = self.runtime.place(store.stack(indices))
        if not crops_randomly(augment):
            return uncropped(images_bchw, augment, generator)
        aspects_b = store.aspects(indices)
        return crop_canvases(images_bchw, aspects_b, size_px, augment, generator)


class EvalLoader:
    """Every picture once, in order, exactly as `Preprocess` makes it. Never augmented.

    Args:
        store: pictures loaded with `load_exact`.
        labels: class number of each picture in the store, -1 where unknown.
    """

    def __init__(
        self,
        store: PixelStore,
        labels: Sequence[int],
        preprocess: Preprocess,
        runtime: Runtime,
        *,
        batch_size: int,
    ) -> None:
        self.store, self.preprocess, self.runtime = store, preprocess, runtime
        self.labels_n = torch.as_tensor(labels, dtype=torch.int64)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.store), self.batch_size)
        return _ahead(partial(self._prepare, start) for start in starts)

    def _prepare(self, start: int) -> Batch:
        indices = range(start, min(start + self.batch_size, len(self.store)))
        images_bchw = self.runtime.place(self.store.stack(indices))
        images_bchw = _ready(images_bchw, self.preprocess, self.runtime)
        labels_b = self.runtime.place(self.labels_n[indices.start : indices.stop])
        return Batch(images_bchw, labels_b, torch.arange(indices.start, indices.stop))


def batch_generator(seed: int, *place: int) -> torch.Generator:
    """A generator that depends on the seed and the place (epoch, batch) alone.

    numpy's SeedSequence mixes them so that neighbouring places share nothing.
    """
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _ready(images_bchw: torch.Tensor, preprocess: Preprocess, runtime: Runtime) -> torch.Tensor:
    """Normalised, lying in memory as the network does."""
    # A store holds bytes, so floats are the augmentation's own and may be written to.
    normalized_bchw = normalize(images_bchw, preprocess, in_place=images_bchw.is_floating_point())
    return normalized_bchw.contiguous(memory_format=runtime.memory_format)


def _batch_slices(num: int, batch_size: int) -> list[slice]:
    starts = list(range(0, num, batch_size))
    if batch_size > 1 and len(starts) > 1 and num - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num], strict=True)]


def _ahead(jobs: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
    """Run the jobs in order in one thread, a few ahead of the reader."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fieldmark-loader") as pool:
        pending: deque[Future[Batch]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > PREFETCH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
