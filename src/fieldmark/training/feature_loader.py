"""Batches of stored features, in place of pictures: what trains and judges the layers above them.

They are `data.loader`'s batches with features where pictures would be, in the very order in which
its loaders give the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from fieldmark.data.features.store import Features, InMemory
from fieldmark.data.loader import (
    Batch,
    Sampling,
    ahead,
    batch_generator,
    batch_slices,
    draw_order,
)
from fieldmark.runtime import Runtime

_OFFSETS = (0, 0, 1)  # a place of `batch_generator` that no epoch and no batch has


class FeatureTrainLoader:
    """Shuffled batches of the training pictures' features, another view of each in each epoch.

    Each picture goes through its views in turn, from one that is drawn by the seed: in as many
    epochs as there are views each is shown once, and an epoch shows all of them about equally
    often. One that "balanced" draws again within an epoch is shown in its next view.

    Args:
        features: of the training part.
        labels, batch_size, seed, sampling: as of `data.loader.TrainLoader`, whose order it keeps.
    """

    def __init__(
        self,
        features: Features,
        labels: Sequence[int],
        runtime: Runtime,
        *,
        batch_size: int,
        seed: int,
        sampling: Sampling = "shuffle",
    ) -> None:
        self.store, self.runtime, self.batch_size = features, runtime, batch_size
        self.labels_n = torch.as_tensor(labels, dtype=torch.int64)
        self.seed, self.sampling = seed, sampling
        num_views = len(features.views)
        generator = batch_generator(seed, *_OFFSETS)
        self._offset_n = torch.randint(num_views, (len(features),), generator=generator)

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(batch_slices(len(self.store), self.batch_size))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (0-based), in order, from number `start` on."""
        order_n = self.order(epoch)
        column_n = self.columns(order_n, epoch)
        slices = batch_slices(len(order_n), self.batch_size)[start:]
        return _batches(
            self.store,
            self.labels_n,
            self.runtime,
            [(order_n[part], column_n[part]) for part in slices],
        )

    def order(self, epoch: int) -> torch.Tensor:
        """(n,) positions in the order in which `epoch` shows them."""
        return draw_order(self.labels_n, self.sampling, self.seed, epoch)

    def columns(self, order_n: torch.Tensor, epoch: int) -> torch.Tensor:
        """(n,) the column of the view in which each of `order_n` is shown."""
        sorted_n, where_n = order_n.sort(stable=True)
        first_n = torch.searchsorted(sorted_n, sorted_n)
        before_n = torch.empty_like(order_n)  # how often it was shown in this epoch already
        before_n[where_n] = torch.arange(len(order_n)) - first_n
        return (self._offset_n[order_n] + epoch + before_n) % len(self.store.views)


class FeatureEvalLoader:
    """The features of every picture once, in order.

    Args:
        features: of pictures as evaluation sees them; of several views, the first.
        labels: -1 where unknown.
    """

    def __init__(
        self, features: Features, labels: Sequence[int], runtime: Runtime, *, batch_size: int
    ) -> None:
        self.store, self.runtime, self.batch_size = features, runtime, batch_size
        self.labels_n = torch.as_tensor(labels, dtype=torch.int64)

    @property
    def num_pictures(self) -> int:
        """Pictures in all batches together."""
        return len(self.store)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order_n = torch.arange(len(self.store))
        parts = [order_n[i : i + self.batch_size] for i in range(0, len(order_n), self.batch_size)]
        wanted = [(part_b, torch.zeros_like(part_b)) for part_b in parts]
        return _batches(self.store, self.labels_n, self.runtime, wanted)


def _batches(
    features: Features,
    labels_n: torch.Tensor,
    runtime: Runtime,
    wanted: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[Batch]:
    def prepare(indices_b: torch.Tensor, columns_b: torch.Tensor) -> Batch:
        features_b = runtime.place(features.take(indices_b.tolist(), columns_b.tolist()))
        if features_b.dim() == 4:  # maps, which convolutions are to take as they take pictures
            features_b = features_b.contiguous(memory_format=runtime.memory_format)
        return Batch(features_b, runtime.place(labels_n[indices_b]), indices_b)

    jobs = (partial(prepare, *pair) for pair in wanted)
    if isinstance(features.holder, InMemory):
        # An index into memory takes less than to hand it over to a thread.
        return (job() for job in jobs)
    return ahead(jobs, 1)
