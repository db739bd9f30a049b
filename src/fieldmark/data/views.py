"""Augmented views of pictures that depend on the picture alone, prepared by threads ahead.

A frozen network's features of a picture can be kept only if the picture that it was shown comes
again. So a view is numbered, and its random numbers depend on the picture's content, the number
and the augmentation words: not on a seed, the batch, or which other pictures there are. The
augmentation itself is that of a training, a picture at a time.

MixUp and CutMix have no views, as they mix pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch

from fieldmark.data.augment.apply import (
    augment_batch,
    crop_canvases,
    crop_pictures,
    crops_randomly,
    uncropped,
)
from fieldmark.data.loader import Room, ahead
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import Pixels
from fieldmark.recipe import AugmentRecipe
from fieldmark.runtime import Runtime
from fieldmark.types import Preprocess

EXACT: Final = -1  # the view that is not augmented: the picture as evaluation sees it

# Goes up whenever the same picture and number would come out of augmentation as other bytes.
VIEW_VERSION: Final = 1

_NO_VIEW_WORDS: Final = ("preset", "mixup", "cutmix")  # a name for the others, and what mixes
_RANDAUGMENT_WORDS: Final = ("num_ops", "magnitude")


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Views ready for the network, on its device.

    Attributes:
        images_bchw: normalised float32.
        wanted: (position in the store, view) of each.
    """

    images_bchw: torch.Tensor
    wanted: tuple[tuple[int, int], ...]


def view_batches(
    store: PixelStore,
    keys: Sequence[str],
    wanted: Sequence[tuple[int, int]],
    preprocess: Preprocess,
    augment: AugmentRecipe | None,
    runtime: Runtime,
    batch_size: int,
) -> Generator[ViewBatch, None, None]:
    """The wanted views, in order.

    Args:
        store: for `EXACT`, and without random crops, pictures in the form "exact"; else stored for
            crops or as canvases.
        keys: of the content of each picture in the store; see `data.contents`.
        wanted: (position in the store, view): `EXACT`, or a number from 0 up. Views of one picture
            are best side by side: then it is taken from the store once.
        augment: settled; None where only `EXACT` is wanted.

    Raises:
        SourceError: as `PixelStore.get_many`.
    """
    maker = _Views(store, keys, preprocess, augment, runtime, Room(preprocess, batch_size, runtime))
    jobs = (
        partial(maker.batch, tuple(wanted[start : start + batch_size]))
        for start in range(0, len(wanted), batch_size)
    )
    return ahead(jobs, maker.room.num_threads)


def view_words(augment: AugmentRecipe) -> dict[str, Any]:
    """The words of a recipe that decide what a view looks like, by name."""
    words = {name: word for name, word in asdict(augment).items() if name not in _NO_VIEW_WORDS}
    if augment.policy != "randaugment":
        words = {name: word for name, word in words.items() if name not in _RANDAUGMENT_WORDS}
    return words


def view_generator(key: str, view: int, augment: AugmentRecipe) -> torch.Generator:
    """The random numbers of a picture's view: the same in every run."""
    place = json.dumps([VIEW_VERSION, key, view, view_words(augment)], sort_keys=True)
    digest = hashlib.sha256(place.encode()).digest()
    # One bit less than a seed may have: torch takes it as signed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class _Views:
    store: PixelStore
    keys: Sequence[str]
    preprocess: Preprocess
    augment: AugmentRecipe | None
    runtime: Runtime
    room: Room

    def batch(self, wanted: tuple[tuple[int, int], ...]) -> ViewBatch:
        positions = list(dict.fromkeys(position for position, _ in wanted))
        stored = dict(zip(positions, self._stored(positions), strict=True))
        # A picture at a time: its random numbers are its own.
        views = [self._view(stored[position], position, view) for position, view in wanted]
        if len({view_1chw.dtype for view_1chw in views}) > 1:  # exact ones beside augmented ones
            views = [v.float() / 255 if v.dtype == torch.uint8 else v for v in views]
        return ViewBatch(self.room.normalized(torch.cat(views)), wanted)

    def _stored(self, positions: list[int]) -> Sequence[torch.Tensor | Pixels]:
        """(1, c, h, w) each on the device; (h, w, c) on the CPU where they are cut there."""
        if self.store.is_uniform:
            images_bchw = self.runtime.place(self.store.stack(positions))
            return [image_chw[None] for image_chw in images_bchw]
        return list(self.store.get_many(positions))

    def _view(self, stored: torch.Tensor | Pixels, position: int, view: int) -> torch.Tensor:
        """(1, c, size, size) on the device: uint8, or float in 0-1."""
        augment, size_px = self.augment, self.preprocess.size
        is_exact = self.store.form.kind == "exact"
        if view == EXACT:
            assert is_exact, self.store.form.kind
            assert isinstance(stored, torch.Tensor)
            return stored
        assert augment is not None, "a numbered view is augmented"
        assert is_exact or crops_randomly(augment), self.store.form.kind
        generator = view_generator(self.keys[position], view, augment)
        if not isinstance(stored, torch.Tensor):
            cropped_1chw = crop_pictures([stored], size_px, augment, generator)
            view_1chw = self.runtime.place(cropped_1chw)
        elif crops_randomly(augment):
            aspects_1 = self.store.aspects([position])
            view_1chw = crop_canvases(stored, aspects_1, size_px, augment, generator)
        else:
            view_1chw = uncropped(stored, augment, generator)
        return augment_batch(view_1chw, augment, generator, fill=self.preprocess.mean)
