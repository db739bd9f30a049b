"""Features computed once: what the frozen part of a network makes of each view of each picture.

What an earlier run has computed is read; the rest goes through the network, and is written as it
comes, so that a run that is stopped loses at most what it was computing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from fieldmark.data.contents import Content
from fieldmark.data.features.form import FeatureForm, check_views, size_of
from fieldmark.data.features.store import (
    Features,
    InMemory,
    OnDisk,
    View,
    find_features,
    found_views,
    read_places,
    writing_views,
)
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.keeping import Write
from fieldmark.data.pixels.packs import Place
from fieldmark.data.pixels.plan import MEMORY_SHARE, free_memory
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.views import ViewBatch, view_batches
from fieldmark.errors import RecipeError, TrainingError
from fieldmark.progress import Progress, size
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess

Lower = Callable[[torch.Tensor], torch.Tensor]
Where = Literal["memory", "disk", "nowhere"]

_NUM_MOST_OF_16_BITS: Final = float(np.finfo(np.float16).max)


def compute_features(
    store: PixelStore,
    contents: Sequence[Content | None],
    views: Sequence[int],
    lower: Lower,
    form: FeatureForm,
    cache: PixelCache | None,
    runtime: Runtime,
    *,
    batch_size: int,
    progress: Progress,
    title: str,
    memory_bytes: int | None = None,
) -> Features:
    """The features of all pictures of a store; what was computed once is not computed again.

    Args:
        contents: `contents_of` the store's samples.
        views: `EXACT` alone where `form.augment` is None; else numbers from 0 up.
        lower: (b, c, size, size) normalised pictures to (b, *shape), in evaluation mode and on the
            device.
        cache: None keeps nothing beyond this run.
        memory_bytes: what may lie in memory; None takes half of what is free. What is larger is
            read from the cache whenever it is asked for.

    Raises:
        RecipeError: too large for memory and cache; see `where_features_go`.
        TrainingError: they are to be kept in 16 bits, and some do not fit.
        OutputError: they are too large for memory, and the cache cannot be written.
        SourceError: a picture has to be decoded again, and its file has changed or is gone.
    """
    check_views(form, views)
    network = _Network(store, keys_of(store, contents), lower, form, runtime)
    rows = network.rows
    wanted = [(key, view) for key in rows for view in views]
    with found_views(cache, form, wanted, progress) as places:
        shape = _shape(places, network)
        where = where_features_go(
            size_of(len(store), len(views), shape, form.kept), cache, memory_bytes=memory_bytes
        )
        if where == "nowhere":
            raise too_large(len(store), len(views), shape, form, cache)
        gathered = _Gathered(network, tuple(views), shape, in_memory=where == "memory")
        gathered.read(places)
        todo = [view for view in wanted if view not in gathered.done]
        with (
            progress.task(title, total=len(wanted), done=len(gathered.done)) as task,
            _writing(cache, form, len(todo), shape, progress, needed=where == "disk") as write,
            network.forward(todo, batch_size) as batches,
        ):
            for batch, values_b in batches:
                for (position, view), values in zip(batch.wanted, values_b, strict=True):
                    key, content = network.keys[position], contents[position]
                    gathered.add((key, view), values)
                    write(content, store.samples[position].path, values, view)
                task.advance(len(batch.wanted))
        return gathered.features(places, cache)


def keys_of(store: PixelStore, contents: Sequence[Content | None]) -> list[str]:
    """The key of each picture's content; of one that could not be hashed, a hash of its pixels."""

    def hashed(position: int) -> str:
        pixels = store.get(position)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    return [content.key if content else hashed(i) for i, content in enumerate(contents)]


def features_shape(lower: Lower, preprocess: Preprocess, runtime: Runtime) -> tuple[int, ...]:
    """Of one picture's features, found out with a black one."""
    black_1chw = torch.zeros(1, preprocess.channels, preprocess.size, preprocess.size)
    with torch.inference_mode(), runtime.autocast():
        features_1 = lower(
            runtime.place(black_1chw).contiguous(memory_format=runtime.memory_format)
        )
    return tuple(features_1.shape[1:])


def where_features_go(
    num_bytes: int, cache: PixelCache | None, *, memory_bytes: int | None = None
) -> Where:
    """Where features of `size_of` so many bytes would be during a run: "nowhere" is to stream.

    Args:
        memory_bytes: what may lie in memory; None takes half of what is free.
    """
    if memory_bytes is None:
        memory_bytes = round(MEMORY_SHARE * free_memory())
    if num_bytes <= memory_bytes:
        return "memory"
    return "disk" if cache is not None and cache.has_room(num_bytes) else "nowhere"


def too_large(
    num_pictures: int,
    num_views: int,
    shape: tuple[int, ...],
    form: FeatureForm,
    cache: PixelCache | None,
) -> RecipeError:
    """What is said where features were asked for and there is no room for them."""
    num_bytes = size_of(num_pictures, num_views, shape, form.kept)
    each = " x ".join(map(str, shape))
    kept = f"the cache's limit of {size(cache.limit)}" if cache else "no cache to read them from"
    return RecipeError(
        "what the frozen part makes of the pictures is too large to be kept",
        given=f"{num_pictures:,} pictures x {num_views} views x {each} numbers up to "
        f"{form.boundary}: {size(num_bytes)}",
        valid=f"half of the free memory ({size(free_memory())} free), or {kept}",
        fix="take fewer --views, freeze further up, or raise `fieldmark cache --limit`",
    )


@dataclass(frozen=True)
class _Network:
    """The frozen part, and the pictures it is shown."""

    store: PixelStore
    keys: Sequence[str]
    lower: Lower
    form: FeatureForm
    runtime: Runtime

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Positions of each content, in the order of the store: copies are computed once."""
        rows: dict[str, list[int]] = {}
        for position, key in enumerate(self.keys):
            rows.setdefault(key, []).append(position)
        return rows

    @contextmanager
    def forward(
        self, views: Sequence[View], batch_size: int
    ) -> Iterator[Iterator[tuple[ViewBatch, npt.NDArray[Any]]]]:
        """Batches of views, and of each what is to be kept, (b, *shape)."""
        first = {key: positions[0] for key, positions in self.rows.items()}
        form = self.form
        batches = view_batches(
            self.store,
            self.keys,
            [(first[key], view) for key, view in views],
            form.preprocess,
            form.augment,
            self.runtime,
            batch_size,
        )
        with closing(batches):  # whatever ends the block, no thread stays
            yield ((batch, self._features(batch.images_bchw)) for batch in batches)

    def _features(self, images_bchw: torch.Tensor) -> npt.NDArray[Any]:
        num = len(images_bchw)
        if num == 1:
            # A picture alone is summed up in another order. Twice it gives what it gives in a
            # batch, so that no bit depends on which views an earlier run had computed.
            images_bchw = images_bchw.repeat(2, 1, 1, 1)
        with torch.inference_mode():
            with self.runtime.autocast():
                features_b = self.lower(images_bchw)[:num]
            if self.form.kept == "float16":
                check_fits_16_bits(features_b, self.form)
            return features_b.float().cpu().numpy().astype(self.form.dtype, copy=False)

    def again(self, view: View) -> npt.NDArray[Any]:
        """One that was computed, and is gone."""
        with self.forward([view], 1) as batches:
            [(_, values_1)] = batches
        values: npt.NDArray[Any] = values_1[0]
        return values


def check_fits_16_bits(features_b: torch.Tensor, form: FeatureForm) -> None:
    """Raise TrainingError where float16 would make infinity of a number."""
    largest = float(features_b.abs().max())
    if largest > _NUM_MOST_OF_16_BITS:
        raise TrainingError(
            "some of what the frozen part computes is too large for 16 bits",
            given=f"{largest:g} at {form.boundary}",
            valid=f"up to {_NUM_MOST_OF_16_BITS:g}",
            fix="keep float32, or freeze up to another stage",
        )


class _Gathered:
    """Features as they arrive."""

    def __init__(
        self, network: _Network, views: tuple[int, ...], shape: tuple[int, ...], *, in_memory: bool
    ) -> None:
        self.network, self.views, self.shape = network, views, shape
        self.rows = network.rows
        self.columns = {view: column for column, view in enumerate(views)}
        self.done: set[View] = set()
        self.num_found = 0
        self.values_nv: npt.NDArray[Any] | None = None
        if in_memory:
            full = (len(network.keys), len(views), *shape)
            self.values_nv = np.empty(full, network.form.dtype)

    def read(self, places: Mapping[View, Place]) -> None:
        """Take what is there; what has gone since it was found is not done."""
        if self.values_nv is None:  # read when it is asked for
            self.done |= places.keys()
        else:
            for view, values in read_places(places):
                self.add(view, values)
        self.num_found = sum(len(self.rows[key]) for key, _ in self.done)

    def add(self, view: View, values: npt.NDArray[Any]) -> None:
        self.done.add(view)
        if self.values_nv is not None:
            key, number = view
            for row in self.rows[key]:
                self.values_nv[row, self.columns[number]] = values

    def features(self, places: Mapping[View, Place], cache: PixelCache | None) -> Features:
        network, num = self.network, len(self.network.keys)
        if self.values_nv is not None:
            holder: InMemory | OnDisk = InMemory(torch.from_numpy(self.values_nv))
        else:
            assert cache is not None
            everywhere = {**places, **find_features(cache, network.form, self.done - places.keys())}
            holder = OnDisk(
                [[everywhere.get((key, view)) for view in self.views] for key in network.keys],
                lambda index, column: network.again((network.keys[index], self.views[column])),
            )
        return Features(self.views, self.shape, num, self.num_found, holder)


def _shape(places: Mapping[View, Place], network: _Network) -> tuple[int, ...]:
    for place in places.values():
        return place.shape
    return features_shape(network.lower, network.form.preprocess, network.runtime)


@contextmanager
def _writing(
    cache: PixelCache | None,
    form: FeatureForm,
    num_views: int,
    shape: tuple[int, ...],
    progress: Progress,
    *,
    needed: bool,
) -> Iterator[Write]:
    num_bytes = size_of(num_views, 1, shape, form.kept)
    with writing_views(cache, form, num_views, num_bytes, progress, needed=needed) as write:
        if cache is not None and num_views and write.writer is None:
            progress.say(
                f"no room for {size(num_bytes)} of features in the cache, {cache.root} (limit "
                f"{size(cache.limit)}); the next run computes them again"
            )
        yield write
