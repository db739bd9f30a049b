"""Batches from a pixel store, prepared by threads ahead of the step. No worker processes.

What is in a batch depends on (seed, epoch, position) alone: not on how far ahead the threads
run, nor on what happened in earlier epochs, nor on whether this one began in its middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from fieldmark.data.augment.apply import (
    augment_batch,
    crop_canvases,
    crop_pictures,
    crops_randomly,
    mix_by_recipe,
    uncropped,
)
from fieldmark.data.buffers import Buffers
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import normalize
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess

PREFETCH: Final = 2  # batches ahead, or one for each thread; more only takes memory
MOST_THREADS: Final = 8
Sampling = Literal["shuffle", "balanced"]
T = TypeVar("T")


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
        sampling: Sampling = "shuffle",
        num_classes: int | None = None,
    ) -> None:
        self.store, self.preprocess, self.augment = store, preprocess, augment
        self.labels_n = torch.as_tensor(labels, dtype=torch.int64)
        self.runtime, self.batch_size = runtime, batch_size
        self.seed, self.sampling = seed, sampling
        if num_classes is None:
            num_classes = int(self.labels_n.max()) + 1 if len(self.labels_n) else 0
        self.num_classes = num_classes
        self._room = Room(preprocess, batch_size + 1, runtime)

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(batch_slices(len(self.store), self.batch_size))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (0-based), in order, from number `start` on.

        A training that goes on in mid-epoch gets the batches it would have had.
        """
        order_n = self.order(epoch)
        slices = batch_slices(len(order_n), self.batch_size)
        jobs = (
            partial(self._prepare, order_n[slices[position]], epoch, position)
            for position in range(start, len(slices))
        )
        return ahead(jobs, self._room.num_threads)

    def order(self, epoch: int) -> torch.Tensor:
        """(n,) positions in the order in which `epoch` shows them."""
        return draw_order(self.labels_n, self.sampling, self.seed, epoch)

    def _prepare(self, indices_b: torch.Tensor, epoch: int, position: int) -> Batch:
        # + 1: SeedSequence takes (seed, epoch) and (seed, epoch, 0) for the same.
        generator = batch_generator(self.seed, epoch, position + 1)
        images_bchw = self._crop(indices_b.tolist(), generator)
        images_bchw = augment_batch(images_bchw, self.augment, generator, fill=self.preprocess.mean)
        images_bchw = self._room.normalized(images_bchw)
        labels_b = self.runtime.place(self.labels_n[indices_b])
        images_bchw, targets = mix_by_recipe(
            images_bchw, labels_b, self.num_classes, self.augment, generator
        )
        return Batch(images_bchw, labels_b, indices_b, None if targets is labels_b else targets)

    def _crop(self, indices: list[int], generator: torch.Generator) -> torch.Tensor:
        """(b, c, size, size) uint8 on the device: cropped where it is quickest, if at all."""
        store, size_px, augment = self.store, self.preprocess.size, self.augment
        if crops_randomly(augment) and not store.is_uniform:
            pictures = list(store.get_many(indices))
            room_bchw = self._room.for_levels(len(indices))
            cropped_bchw = crop_pictures(pictures, size_px, augment, generator, room_bchw)
            return self.runtime.place(cropped_bchw)
        images_bchw = self.runtime.place(store.stack(indices))
        if not crops_randomly(augment):
            return uncropped(images_bchw, augment, generator)
        aspects_b = store.aspects(indices)
        return crop_canvases(images_bchw, aspects_b, size_px, augment, generator)


class EvalLoader:
    """Every picture once, in order, exactly as `Preprocess` makes it. Never augmented.

    Args:
        store: pictures in the form "exact".
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
        self._room = Room(preprocess, batch_size, runtime)

    @property
    def num_pictures(self) -> int:
        """Pictures in all batches together."""
        return len(self.store)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.store), self.batch_size)
        return ahead((partial(self._prepare, start) for start in starts), self._room.num_threads)

    def _prepare(self, start: int) -> Batch:
        indices = range(start, min(start + self.batch_size, len(self.store)))
        images_bchw = self.runtime.place(self.store.stack(indices))
        images_bchw = self._room.normalized(images_bchw)
        labels_b = self.runtime.place(self.labels_n[indices.start : indices.stop])
        return Batch(images_bchw, labels_b, torch.arange(indices.start, indices.stop))


def batch_generator(seed: int, *place: int) -> torch.Generator:
    """A generator that depends on the seed and the place (epoch, batch) alone.

    numpy's SeedSequence mixes them so that neighbouring places share nothing.
    """
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw_order(labels_n: torch.Tensor, sampling: Sampling, seed: int, epoch: int) -> torch.Tensor:
    """(n,) positions in the order in which `epoch` shows them; see `TrainLoader`."""
    generator = batch_generator(seed, epoch)
    num = len(labels_n)
    if sampling == "shuffle":
        return torch.randperm(num, generator=generator)
    counts_k = torch.bincount(labels_n)
    weights_n = 1.0 / counts_k[labels_n]
    return torch.multinomial(weights_n, num, replacement=True, generator=generator)


class Room:
    """Where the batches of one loader are made.

    Attributes:
        num_threads: that prepare batches, each its own. On a CPU one for each that torch computes
            with; a GPU crops by itself, and one thread keeps it busy.
    """

    def __init__(self, preprocess: Preprocess, most: int, runtime: Runtime) -> None:
        self.preprocess, self.runtime = preprocess, runtime
        on_cpu = runtime.device.type == "cpu"
        self.num_threads = min(torch.get_num_threads(), MOST_THREADS) if on_cpu else 1
        num_levels = most * preprocess.channels * preprocess.size**2
        num_kept = self.num_threads + PREFETCH + 1  # being made, waiting, and in the step
        self._levels = Buffers(num_levels, num_kept)
        self._floats = Buffers(num_levels * torch.float32.itemsize, num_kept)

    def for_levels(self, num: int) -> torch.Tensor:
        """(num, c, size, size) uint8 to write to, on the CPU, channels last."""
        return self._levels.empty(num, *self._shape, torch.uint8)

    def normalized(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """The same pictures normalised, lying in memory as the network does."""
        if images_bchw.is_floating_point():
            out_bchw = images_bchw  # a store holds bytes, so floats are the augmentation's own
        elif self.runtime.device.type == "cpu":
            out_bchw = self._floats.empty(len(images_bchw), *self._shape, torch.float32)
        else:
            out_bchw = None
        normalized_bchw = normalize(images_bchw, self.preprocess, out_bchw=out_bchw)
        return normalized_bchw.contiguous(memory_format=self.runtime.memory_format)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.preprocess.channels, self.preprocess.size


def batch_slices(num: int, batch_size: int) -> list[slice]:
    """The steps of an epoch; a picture that would be left alone joins the batch before."""
    starts = list(range(0, num, batch_size))
    if batch_size > 1 and len(starts) > 1 and num - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num], strict=True)]


def ahead(jobs: Iterator[Callable[[], T]], num_threads: int) -> Generator[T, None, None]:
    """What the jobs give, in order; they run in threads, a few ahead of the reader."""
    num_ahead = max(PREFETCH, num_threads)
    with ThreadPoolExecutor(num_threads, "fieldmark-loader", _compute_in_this_thread) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > num_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _compute_in_this_thread() -> None:
    """For a thread that is one of several: what torch computes in it, it computes there.

    It would start threads for each of them, which wait for the next sum by spinning, and so take
    the cores from the others and from the training step.
    """
    torch.get_num_threads()  # torch sets its own number when it is first used in a thread
    ThreadpoolController().limit(limits=1, user_api="openmp")
