"""How a pixel store comes about: what earlier runs decoded is found, the rest decoded in parallel
and added to the pixel cache, and all of it put where this run wants it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from fieldmark.data.contents import Content
from fieldmark.data.parallel import in_parallel
from fieldmark.data.pixels.cache import PixelCache
from fieldmark.data.pixels.form import Decoded, Form
from fieldmark.data.pixels.holders import Holder, InMemory, OnDevice, OnDisk, Streamed
from fieldmark.data.pixels.keeping import found, writing
from fieldmark.data.pixels.packs import PackReader, Place
from fieldmark.data.pixels.store import PixelStore
from fieldmark.data.preprocess import Pixels
from fieldmark.errors import PictureError, SourceError
from fieldmark.progress import Progress
from fieldmark.types import LeftOut, Sample

Keep = Literal["ram", "gpu", "disk", "none"]


def build_store(
    samples: Sequence[Sample],
    form: Form,
    *,
    keep: Keep = "ram",
    cache: PixelCache | None = None,
    contents: Sequence[Content | None] | None = None,
    device: torch.device | None = None,
    strict: bool,
    title: str,
    progress: Progress,
    stored_ahead: Container[str] = frozenset(),
) -> PixelStore:
    """Decode every picture once, unless an earlier run has.

    With "none", too, every picture is decoded here: that finds those that cannot be read.

    Args:
        keep: where the pictures are during the run. "disk" needs a cache, "gpu" a device and a
            uniform form.
        cache: where pictures of earlier runs are and new ones go; None keeps nothing beyond this
            run.
        contents: `contents_of` the samples, where there is a cache.
        strict: the first picture that cannot be read raises instead of being left out.
        stored_ahead: keys of contents that this run has put into the cache itself.

    Raises:
        SourceError: `strict`, and a picture cannot be read.
        OutputError: "disk", and the cache cannot be written.
    """
    if cache is None or contents is None:
        contents = [None] * len(samples)
    keys = [content.key if content else None for content in contents]
    gathered = _Gathered(len(samples), form, keep, device)

    def decode(index: int) -> Decoded | PictureError:
        try:
            return form.decode(samples[index].path)
        except PictureError as error:
            return error

    with (
        progress.task(title, total=len(samples)) as task,
        found(cache, form, keys, progress) as places,
    ):
        # What is there already.
        known = [index for index, key in enumerate(keys) if key in places]
        here = [places[str(keys[index])] for index in known]
        for index, place, pixels in zip(known, here, gathered.fetch(here), strict=True):
            if pixels is not None:
                gathered.add(index, Decoded(pixels, place.aspect))
                task.advance()
        gathered.num_found = sum(keys[index] not in stored_ahead for index in gathered.aspects)

        # What is not, and what has gone since it was found.
        todo = [index for index in range(len(samples)) if index not in gathered.aspects]
        paths = [samples[index].path for index in todo]
        with writing(cache, form, paths, progress, needed=keep == "disk") as write:
            for index, result in zip(todo, in_parallel(decode, todo), strict=True):
                if not isinstance(result, PictureError):
                    gathered.add(index, result)
                    write(contents[index], samples[index].path, result)
                elif strict:
                    raise unreadable(samples[index].path, result)
                else:
                    gathered.left_out[index] = LeftOut(samples[index].path, result.problem)
                task.advance()
    return gathered.store(samples, cache, keys, places)


class _Gathered:
    """Pictures by their position among all samples, as they arrive."""

    def __init__(self, num: int, form: Form, keep: Keep, device: torch.device | None) -> None:
        self.form, self.keep = form, keep
        self.aspects: dict[int, float] = {}
        self.left_out: dict[int, LeftOut] = {}
        self.num_found = 0
        self.pixels: dict[int, Pixels] = {}
        self.images_rhwc = torch.empty(0, dtype=torch.uint8)
        if keep == "gpu":
            side, channels = form.side_px, form.preprocess.channels
            shape = (num, side, side, channels)
            self.images_rhwc = torch.empty(shape, dtype=torch.uint8, device=device)

    def fetch(self, places: Sequence[Place]) -> Iterator[Pixels | None]:
        """Pixels that lie in packs; None for what is gone. Not read where nobody will hold them."""
        if self.keep in ("ram", "gpu"):
            return in_parallel(PackReader().read, places)
        nothing = np.empty((0, 0, 0), np.uint8)
        return (nothing for _ in places)

    def add(self, index: int, picture: Decoded) -> None:
        self.aspects[index] = picture.aspect
        if self.keep == "ram":
            self.pixels[index] = picture.pixels
        elif self.keep == "gpu":
            self.images_rhwc[index] = torch.from_numpy(picture.pixels)

    def store(
        self,
        samples: Sequence[Sample],
        cache: PixelCache | None,
        keys: Sequence[str | None],
        places: Mapping[str, Place],
    ) -> PixelStore:
        good = sorted(self.aspects)
        kept = tuple(samples[index] for index in good)
        return PixelStore(
            kept,
            tuple(self.left_out[index] for index in sorted(self.left_out)),
            self.form,
            self._holder(good, kept, cache, keys, places),
            np.array([self.aspects[index] for index in good], np.float64),
            self.num_found,
        )

    def _holder(
        self,
        good: Sequence[int],
        kept: Sequence[Sample],
        cache: PixelCache | None,
        keys: Sequence[str | None],
        places: Mapping[str, Place],
    ) -> Holder:
        def decode_again(position: int) -> Pixels:
            try:
                return self.form.decode(kept[position].path).pixels
            except PictureError as error:
                # Passing over it would train and judge on other pictures than the run says.
                raise SourceError(
                    f"a picture that was there can no longer be read: {error.problem}",
                    given=kept[position].path,
                    fix="bring it back, and leave the pictures in place until all is done; or "
                    "start again with those that are left",
                ) from error

        if self.keep == "ram":
            return InMemory(self.pixels[index] for index in good)
        if self.keep == "gpu":
            return OnDevice(self.images_rhwc, good)
        if self.keep == "none":
            return Streamed(decode_again)
        assert cache is not None
        wanted = [keys[index] or "" for index in good]
        if written := {key for key in wanted if key and key not in places}:
            places = {**places, **cache.find(self.form, written)}
        return OnDisk((places.get(key) for key in wanted), decode_again)


def unreadable(path: str, error: PictureError) -> SourceError:
    """What `strict` raises for a picture that cannot be read."""
    return SourceError(
        f"a picture cannot be read: {error.problem}",
        given=path,
        fix="mend or remove that file, or drop --strict to leave such pictures out",
    )
