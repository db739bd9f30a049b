"""Features of the pictures of a part, by position and view: in memory, or on disk where they are
too large; and how the cache gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fieldmark.data.features.form import FeatureForm
from fieldmark.data.parallel import in_parallel
from fieldmark.data.pixels.cache import NamedForm, PixelCache
from fieldmark.data.pixels.keeping import Goods, Write, found_goods, writing_goods
from fieldmark.data.pixels.packs import ENTRY_BYTES, PackReader, Place
from fieldmark.progress import Progress

View = tuple[str, int]  # key of a content, number of a view

_RUN_BYTES: Final = 16 * 2**20  # read at a time where features lie one behind another
_ROWS_AT_ONCE: Final = 256  # pictures, in all their views


class FeatureHolder(Protocol):
    """Features by picture and column, as they are kept."""

    def take(self, indices: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
        """(b, *shape) on the CPU: of each picture, the view in that column."""


@dataclass(frozen=True)
class Features:
    """What a network computed of a part, in the order of its pixel store.

    Attributes:
        views: what is in each column.
        shape: of one feature tensor.
        num_pictures: rows.
        num_found: how many of the rows' views an earlier run had computed.
        holder: where they are.
    """

    views: tuple[int, ...]
    shape: tuple[int, ...]
    num_pictures: int
    num_found: int
    holder: FeatureHolder

    def __len__(self) -> int:
        """Pictures."""
        return self.num_pictures

    def take(self, indices: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
        """(b, *shape) float32 on the CPU: of each of these pictures, the view in that column.

        Raises:
            SourceError: features on disk are gone, and so is the picture they were of.
        """
        return self.holder.take(indices, columns).float()

    @property
    def values(self) -> torch.Tensor:
        """(n, v, *shape) float32 on the CPU: all of it, also where it does not lie in memory."""
        if isinstance(self.holder, InMemory):
            return self.holder.values_nv.float()
        columns = list(range(len(self.views)))
        values_nv = torch.empty(len(self), len(columns), *self.shape)
        for start in range(0, len(self), _ROWS_AT_ONCE):  # all at once it would be there twice
            rows = range(start, min(start + _ROWS_AT_ONCE, len(self)))
            taken = self.take([row for row in rows for _ in columns], columns * len(rows))
            values_nv[rows.start : rows.stop] = taken.view(len(rows), len(columns), *self.shape)
        return values_nv


class InMemory:
    """All features as one tensor (n, v, *shape), float16 or float32."""

    def __init__(self, values_nv: torch.Tensor) -> None:
        self.values_nv = values_nv

    def take(self, indices: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
        return self.values_nv[torch.as_tensor(indices), torch.as_tensor(columns)]


class OnDisk:
    """Features read from the packs of the cache whenever they are asked for.

    Args:
        places: by picture, then by column, where they were found.
        compute: gives those of a picture and column whose pack is gone.
    """

    def __init__(
        self,
        places: Sequence[Sequence[Place | None]],
        compute: Callable[[int, int], npt.NDArray[Any]],
    ) -> None:
        self.places, self.compute, self.reader = places, compute, PackReader()

    def take(self, indices: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
        pairs = list(zip(indices, columns, strict=True))
        kept = list(in_parallel(self._read, pairs))
        # Here, not in those threads: the network is not for several at once.
        found = [
            self.compute(*pair) if k is None else k for pair, k in zip(pairs, kept, strict=True)
        ]
        return torch.from_numpy(np.stack(found))

    def _read(self, pair: tuple[int, int]) -> npt.NDArray[Any] | None:
        place = self.places[pair[0]][pair[1]]
        return None if place is None else self.reader.read(place)


def read_places(places: Mapping[View, Place]) -> Iterator[tuple[View, npt.NDArray[Any]]]:
    """What lies at these places, in whatever order is quick; what is gone is left out.

    Small features are far more than files: those that lie one behind another are read together.
    """
    runs = list(_runs(places))
    reader = PackReader()
    read = in_parallel(reader.read, [whole for _, whole in runs])
    for (views, _), rows in zip(runs, read, strict=True):
        if rows is not None:
            yield from zip(views, rows, strict=True)


def _runs(places: Mapping[View, Place]) -> Iterator[tuple[list[View], Place]]:
    """Views of one shape one behind another in a pack, and the place of all of them."""
    ordered = sorted(places.items(), key=lambda item: (item[1].pack, item[1].offset))
    start = 0
    for end in range(1, len(ordered) + 1):
        first, last = ordered[start][1], ordered[end - 1][1]
        num_bytes = last.offset + last.num_bytes - first.offset
        if end < len(ordered) and num_bytes < _RUN_BYTES and _follows(last, ordered[end][1]):
            continue
        shape = (end - start, *first.shape)
        whole = Place(first.pack, first.offset, shape, first.tag, first.dtype)
        yield [view for view, _ in ordered[start:end]], whole
        start = end


def _follows(place: Place, following: Place) -> bool:
    return (place.pack, place.shape, place.dtype, place.offset + place.num_bytes) == (
        following.pack,
        following.shape,
        following.dtype,
        following.offset,
    )


def find_features(cache: PixelCache, form: NamedForm, wanted: set[View]) -> dict[View, Place]:
    """Where those of the views are that the cache has."""
    found = cache.find_views(form, wanted)
    return {(key, int(view)): place for (key, view), place in found.items()}


FEATURES_OF_VIEWS: Final = Goods[View](
    find=find_features,
    put=lambda writer, key, view, values: writer.add_tensor(key, view, values),
    name="features",
    making="is computing these features",
    again="computes these features again",
)


def found_views(
    cache: PixelCache | None, form: FeatureForm, wanted: Iterable[View], progress: Progress
) -> AbstractContextManager[dict[View, Place]]:
    """What the cache has of these views; the rest is ours to compute until the block ends."""
    return found_goods(FEATURES_OF_VIEWS, cache, form, set(wanted), progress)


def writing_views(
    cache: PixelCache | None,
    form: FeatureForm,
    num_views: int,
    num_bytes: int,
    progress: Progress,
    *,
    needed: bool = False,
) -> AbstractContextManager[Write]:
    """Around computing so many features, which are `num_bytes` of numbers; see `writing_goods`."""
    num_bytes += num_views * ENTRY_BYTES
    return writing_goods(
        FEATURES_OF_VIEWS, cache, form, num_views, num_bytes, progress, needed=needed
    )
