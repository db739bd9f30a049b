"""The pixel store: every picture of a part decoded once, in parallel, kept as uint8 in memory.

What does not fit is decoded again whenever it is asked for; callers cannot tell the difference
but by the time it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import psutil

from fieldmark.data.preprocess import STORE_MARGIN, Pixels
from fieldmark.errors import PictureError, SourceError
from fieldmark.progress import Progress
from fieldmark.types import LeftOut, Preprocess, Sample

# Leave the other half of the free memory to the network, its activations and other programs.
MEMORY_SHARE: Final = 0.5

# Photos are 4:3 or 3:2; the rest is for the odd longer one.
SAFE_ASPECT: Final = 2.0

_SLICE: Final = 64  # pictures queued at a time
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class PixelStore:
    """Decoded pictures of one part, by position.

    Attributes:
        samples: the pictures that could be read, in the manifest's order.
        left_out: those that could not, each with its reason.
        load: decodes one path to (h, w, c) uint8.
        kept: the decoded pictures, parallel to `samples`; None when they did not fit.
    """

    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...]
    load: Callable[[str], Pixels]
    kept: tuple[Pixels, ...] | None

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int) -> Pixels:
        """Picture number `index`, (h, w, c) uint8.

        Raises:
            PictureError: only where nothing is kept and the file has changed since.
        """
        if self.kept is not None:
            return self.kept[index]
        return self.load(self.samples[index].path)

    def get_many(self, indices: Iterable[int]) -> Iterator[Pixels]:
        """Pictures in the order of `indices`, decoded in parallel, a bounded number at a time.

        Raises:
            SourceError: a file has changed since the store was built, when all could be read.
        """
        if self.kept is not None:
            yield from (self.kept[index] for index in indices)
            return
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            yield from _map_bounded(pool, self._get_again, list(indices))

    def _get_again(self, index: int) -> Pixels:
        try:
            return self.get(index)
        except PictureError as error:
            # Passing over it would train and judge on other pictures than the run says.
            raise SourceError(
                f"a picture that was there can no longer be read: {error.problem}",
                given=self.samples[index].path,
                fix="bring it back, and leave the pictures in place until all is done; or start "
                "again with those that are left",
            ) from error


def build_store(
    samples: Sequence[Sample],
    load: Callable[[str], Pixels],
    *,
    keep: bool,
    strict: bool,
    title: str,
    progress: Progress,
) -> PixelStore:
    """Decode every picture once (also when it cannot be kept: that finds the unreadable ones).

    Args:
        keep: hold the pixels in memory; see `fits_in_memory`.
        strict: the first picture that cannot be read raises instead of being left out.

    Raises:
        SourceError: `strict`, and a picture cannot be read.
    """
    good: list[Sample] = []
    bad: list[LeftOut] = []
    pixels: list[Pixels] = []

    def decode(sample: Sample) -> Pixels | PictureError:
        try:
            return load(sample.path)
        except PictureError as error:
            return error

    # Threads, not processes: Pillow decodes and resizes outside Python's lock, and nothing has
    # to be copied between processes.
    with (
        progress.task(title, total=len(samples)) as task,
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
    ):
        for sample, result in zip(samples, _map_bounded(pool, decode, samples), strict=True):
            if isinstance(result, PictureError):
                if strict:
                    raise unreadable(sample.path, result)
                bad.append(LeftOut(sample.path, result.problem))
            else:
                good.append(sample)
                if keep:
                    pixels.append(result)
            task.advance()
    return PixelStore(tuple(good), tuple(bad), load, tuple(pixels) if keep else None)


def fits_in_memory(num_pictures: int, preprocess: Preprocess, typical_side_px: int) -> bool:
    """Whether so many training pictures can be kept, by an estimate on the safe side."""
    available: int = psutil.virtual_memory().available
    needed = estimate_bytes(num_pictures, preprocess, typical_side_px)
    return needed <= available * MEMORY_SHARE


def estimate_bytes(num_pictures: int, preprocess: Preprocess, typical_side_px: int) -> int:
    """Bytes of `num_pictures` stored for crops or exactly, whichever takes more.

    Small pictures are enlarged when they are stored exactly, and left as they are for crops.
    """
    short_px = min(round(preprocess.size * STORE_MARGIN), typical_side_px)
    pixels = max(short_px**2 * SAFE_ASPECT, preprocess.size**2)
    return round(num_pictures * pixels * preprocess.channels)


def unreadable(path: str, error: PictureError) -> SourceError:
    """What `strict` raises for a picture that cannot be read."""
    return SourceError(
        f"a picture cannot be read: {error.problem}",
        given=path,
        fix="mend or remove that file, or drop --strict to leave such pictures out",
    )


def _map_bounded(
    pool: ThreadPoolExecutor, decode: Callable[[T], R], items: Sequence[T]
) -> Iterator[R]:
    """`pool.map` in slices: few pictures wait to be taken, and a failure or Ctrl-C leaves little
    queued work behind."""
    for start in range(0, len(items), _SLICE):
        yield from pool.map(decode, items[start : start + _SLICE])
