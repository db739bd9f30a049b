"""The one way from a picture file to a network input. A second resize anywhere is a bug.

The first half (decode, crop, resize) gives uint8, which is what is stored; the second half
(`normalize`) runs on the device, on whole batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fieldmark.types import Preprocess

Pixels = npt.NDArray[np.uint8]  # (h, w, c)

# JPEGs are decoded at 1/2, 1/4 or 1/8 only while twice the wanted side is left, so that the
# antialiased resize still decides how the result looks.
DECODE_MARGIN: Final = 2.0

# Training pictures are stored this much larger than the input, for random crops to cut from.
# With crops of 35-100 % of the area, three in four are still scaled down rather than up.
STORE_MARGIN: Final = 1.5

# A picture that is larger than that by no more than this is stored as it is: to save a third of its
# memory would take nearly as long as decoding it did, and cost some of its detail.
STORE_SPARE: Final = 1.25

# An input's proportions are near 1, so what lies beyond 4:1 can be cut off before resizing.
# Without a limit a 1 x 10,000 picture would be enlarged to 256 x 2,560,000.
MAX_ASPECT: Final = 4.0

# Pictures normalised at a time on a CPU: so many of 224 px stay in its cache.
_CPU_SLICE: Final = 4

FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def decode_px(preprocess: Preprocess, *, whole: bool) -> int:
    """The short side that a JPEG must keep when it is decoded (see `open_picture`).

    Args:
        whole: for `whole_pixels` and `canvas_pixels`; else for `exact_pixels`.
    """
    share = STORE_MARGIN if whole else 1 / preprocess.crop_fraction
    return round(round(preprocess.size * share) * DECODE_MARGIN)


def exact_pixels(picture: Image.Image, preprocess: Preprocess) -> Pixels:
    """The picture as the network is shown it in evaluation and prediction.

    Args:
        picture: from `open_picture`, in as many channels as the preprocess says.

    Returns:
        (size, size, c) uint8.
    """
    return _pixels(fit_to_input(picture, preprocess))


def whole_pixels(picture: Image.Image, preprocess: Preprocess) -> Pixels:
    """The whole picture, scaled so that random crops can be cut from it.

    Never scaled up, but with "squash": then all of it is a square, as in evaluation.

    Returns:
        (h, w, c) uint8 with `min(h, w) <= STORE_SPARE * round(STORE_MARGIN * size)`.
    """
    short_px = round(preprocess.size * STORE_MARGIN)
    width, height = picture.size
    if preprocess.resize == "squash":
        side = min(short_px, max(width, height))
        return _pixels(picture.resize((side, side), FILTERS[preprocess.interpolation]))
    box = _shown_box(width, height)
    shown_w, shown_h = box[2] - box[0], box[3] - box[1]
    shrink = store_scale(min(shown_w, shown_h), short_px)
    target = (max(1, round(shown_w * shrink)), max(1, round(shown_h * shrink)))
    if target == picture.size:
        return _pixels(picture)
    return _pixels(picture.resize(target, FILTERS[preprocess.interpolation], box=box))


def store_scale(shown_px: float, wanted_px: float) -> float:
    """By what a picture with this short side is scaled when it is stored for crops; at most 1."""
    return 1.0 if shown_px <= STORE_SPARE * wanted_px else wanted_px / shown_px


def canvas_pixels(picture: Image.Image, preprocess: Preprocess) -> tuple[Pixels, float]:
    """The whole picture squashed (or enlarged) to one square, for batched crops on a GPU.

    Pictures of one shape can be cut and resized a batch at a time. The proportions are not lost:
    a crop is drawn in the picture's own, and resized to the input from whatever part of the square
    that is, so that nothing is stretched in the end.

    Returns:
        (side, side, c) uint8 with `side = round(STORE_MARGIN * size)`; and width / height of what
        it shows: of the picture within `MAX_ASPECT`, or 1 with "squash", where crops are cut from
        the square that the network is shown.
    """
    side = round(preprocess.size * STORE_MARGIN)
    width, height = picture.size
    resample = FILTERS[preprocess.interpolation]
    if preprocess.resize == "squash":
        return _pixels(picture.resize((side, side), resample)), 1.0
    box = _shown_box(width, height)
    aspect = (box[2] - box[0]) / (box[3] - box[1])
    return _pixels(picture.resize((side, side), resample, box=box)), aspect


def _shown_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the middle of a picture that is no longer than `MAX_ASPECT`."""
    shown_w, shown_h = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    left, top = (width - shown_w) / 2, (height - shown_h) / 2
    return left, top, left + shown_w, top + shown_h


def fit_to_input(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The square that the network is shown: "squash", or short side to size and centre crop.

    The crop equals, to the pixel, torchvision's `Resize` followed by `CenterCrop` (a test holds
    that). Only where most of the resized picture would be cut away again is the part that stays
    resized by itself, so that a 1 x 5000 picture does not take gigabytes; rounding, and the order
    in which Pillow takes rows and columns, may then change a pixel a little.
    """
    size, resample = preprocess.size, FILTERS[preprocess.interpolation]
    if preprocess.resize == "squash":
        return picture.resize((size, size), resample)
    width, height = picture.size
    short = round(size / preprocess.crop_fraction)
    if width <= height:
        scaled_w, scaled_h = short, int(short * height / width)
    else:
        scaled_w, scaled_h = int(short * width / height), short
    left, top = round((scaled_w - size) / 2), round((scaled_h - size) / 2)
    if max(scaled_w, scaled_h) <= MAX_ASPECT * size:
        whole = picture.resize((scaled_w, scaled_h), resample)
        return whole.crop((left, top, left + size, top + size))
    x, y = width / scaled_w, height / scaled_h
    # min(): float rounding may put the far edge a hair outside, which Pillow refuses.
    right, bottom = min((left + size) * x, width), min((top + size) * y, height)
    return picture.resize((size, size), resample, box=(left * x, top * y, right, bottom))


def to_batch(pictures: Iterable[Pixels]) -> torch.Tensor:
    """Pictures of one size: (h, w, c) arrays to (b, c, h, w) uint8, channels last in memory."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2)


def normalize(
    images_bchw: torch.Tensor, preprocess: Preprocess, *, out_bchw: torch.Tensor | None = None
) -> torch.Tensor:
    """(b, c, h, w) uint8 in 0-255, or float in 0-1, to normalised float32.

    Colours come in as RGB and leave in the network's order; the memory format is kept.

    Args:
        out_bchw: on a CPU the result is written here and not to new memory: float32, perhaps
            `images_bchw` itself. Elsewhere it is not used.
    """
    mean_c11, std_c11 = _mean_std(preprocess, images_bchw.device)
    if images_bchw.device.type == "cpu":
        if out_bchw is None:
            out_bchw = torch.empty_like(images_bchw, dtype=torch.float32)
        normalized = out_bchw
        _normalize_on_cpu(images_bchw, normalized, mean_c11, std_c11)
    else:
        levels = images_bchw.float() / 255 if images_bchw.dtype == torch.uint8 else images_bchw
        normalized = (levels - mean_c11) / std_c11
    return normalized.flip(1) if preprocess.channel_order == "bgr" else normalized


def _normalize_on_cpu(
    source: torch.Tensor, target: torch.Tensor, mean_c11: torch.Tensor, std_c11: torch.Tensor
) -> None:
    """The same sums to the bit, several times faster.

    A few pictures at a time go through all of it while they are in the cache, and channels that
    lie beside each other are taken as long rows: one row of means against rows of pictures is
    quicker than three means against triples.
    """
    in_place = target is source
    if all(x.is_contiguous(memory_format=torch.channels_last) for x in (source, target)):
        width = source.shape[3]
        source, target = (x.permute(0, 2, 3, 1).flatten(2) for x in (source, target))
        mean_c11, std_c11 = (x.flatten().repeat(width) for x in (mean_c11, std_c11))
    for start in range(0, len(source), _CPU_SLICE):
        part = slice(start, start + _CPU_SLICE)
        if not in_place:
            target[part].copy_(source[part])
        if source.dtype == torch.uint8:
            target[part].div_(255)
        target[part].sub_(mean_c11).div_(std_c11)


def _mean_std(preprocess: Preprocess, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(c, 1, 1) each, so that they broadcast over a batch."""
    mean_c, std_c = (torch.tensor(v, device=device) for v in (preprocess.mean, preprocess.std))
    return mean_c.view(-1, 1, 1), std_c.view(-1, 1, 1)


def denormalize(images_bchw: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Inverse of `normalize`, for people to look at: (b, c, h, w) uint8, RGB."""
    if preprocess.channel_order == "bgr":
        images_bchw = images_bchw.flip(1)
    mean_c11, std_c11 = _mean_std(preprocess, images_bchw.device)
    return ((images_bchw * std_c11 + mean_c11) * 255).round().clamp(0, 255).to(torch.uint8)


def measure_mean_std(
    pictures: Iterable[Pixels], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, white = 1, to 4 digits.

    Four digits keep recipes readable; the difference is far below one grey level.
    """
    # Counting the 256 grey levels is exact and needs no float copy of every picture.
    histogram = np.zeros((channels, 256))
    for pixels in pictures:
        for channel in range(channels):
            histogram[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    # Pictures of one flat colour have no spread; dividing by 1 leaves them alone.
    std = np.where(std < 1e-4, 1.0, std)
    return tuple(round(float(m), 4) for m in mean), tuple(round(float(s), 4) for s in std)


def _pixels(picture: Image.Image) -> Pixels:
    array = np.array(picture)  # a copy: torch warns about Pillow's read-only memory
    return array[:, :, None] if array.ndim == 2 else array
