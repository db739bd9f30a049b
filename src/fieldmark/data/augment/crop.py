"""Random resized crops (Szegedy et al. 2014, sec. 6), by whatever is quick where the pictures are.

On a CPU: torch's antialiased uint8 resize, a picture at a time. On a GPU: from pictures squashed
into squares of one size, all of a batch at once as two matrix products. Either way boxes are drawn
by `draw_crops`, and resizing is antialiased as torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from fieldmark.data.augment.geometry import draw_flips
from fieldmark.data.preprocess import Pixels

NUM_TRIES = 10  # boxes drawn for a picture before the largest allowed one is taken


def random_resized_crop(
    pictures: Sequence[Pixels],
    size_px: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    *,
    hflip: float = 0.0,
    out_bchw: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut a random part of each picture and resize it to the input. For pictures on the CPU.

    Args:
        pictures: (h, w, c) uint8 arrays, each of its own size.
        scale: area of the part as a share of the picture, smallest and largest.
        ratio: width / height of the part, smallest and largest.
        hflip: probability of a left-right flip, drawn as `geometry.flip` draws it; here it costs
            next to nothing.
        out_bchw: where the crops are written, instead of to new memory, which takes a CPU about as
            long to be given as to fill; with room for at least b pictures, channels last.

    Returns:
        (b, c, size_px, size_px) uint8, channels last.
    """
    sizes_b2 = torch.tensor([picture.shape[:2] for picture in pictures])
    boxes = draw_crops(sizes_b2, scale, ratio, generator).tolist()
    flips = draw_flips(len(pictures), hflip, generator).tolist()
    if out_bchw is None:
        out_bchw = new_batch(len(pictures), pictures[0].shape[2], size_px)
    done_bchw = out_bchw[: len(pictures)]

    for i, (top, left, height, width) in enumerate(boxes):
        # A copy: without gaps between its rows a part takes torch's quickest kernel and comes out
        # with its channels last, and what a store keeps may not be writable.
        part = pictures[i][top : top + height, left : left + width].copy()
        # uint8 in, uint8 out: torch resamples whole numbers several times faster than floats.
        resized_1chw = F.interpolate(
            torch.from_numpy(part)[None].permute(0, 3, 1, 2),
            size=(size_px, size_px),
            mode="bilinear",
            antialias=True,
        )
        done_bchw[i : i + 1] = resized_1chw.flip(-1) if flips[i] else resized_1chw
    return done_bchw


def new_batch(num: int, channels: int, size_px: int) -> torch.Tensor:
    """(num, channels, size_px, size_px) uint8 of any content, channels last."""
    return torch.empty((num, size_px, size_px, channels), dtype=torch.uint8).permute(0, 3, 1, 2)


def random_resized_crop_batch(
    canvases_bchw: torch.Tensor,
    aspects_b: torch.Tensor,
    size_px: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """As `random_resized_crop`, for a batch of pictures that were squashed into squares.

    Boxes are drawn in the pictures' own proportions: of pictures at least as large as the canvas
    the very boxes that `random_resized_crop` draws with the same generator.

    Args:
        canvases_bchw: (b, c, side, side) uint8 on any device, from `preprocess.canvas_pixels`.
        aspects_b: width / height of what each shows, on the CPU.

    Returns:
        (b, c, size_px, size_px) uint8 on the same device.
    """
    side_px = canvases_bchw.shape[-1]
    sizes_b2 = sizes_of_canvases(aspects_b, side_px)
    boxes_b4 = draw_crops(sizes_b2, scale, ratio, generator).double()
    # The same boxes, in pixels of the canvas.
    boxes_b4 = boxes_b4 * side_px / torch.cat((sizes_b2, sizes_b2), dim=1)
    return resize_boxes(canvases_bchw, boxes_b4, size_px)


def sizes_of_canvases(aspects_b: torch.Tensor, side_px: int) -> torch.Tensor:
    """(b, 2) heights and widths, px, of the unsquashed pictures: the short side is `side_px`."""
    aspects_b = aspects_b.double()
    height_b = (side_px / aspects_b).round().clamp(min=side_px)
    width_b = (side_px * aspects_b).round().clamp(min=side_px)
    return torch.stack((height_b, width_b), dim=1).long()


def resize_boxes(images_bchw: torch.Tensor, boxes_b4: torch.Tensor, size_px: int) -> torch.Tensor:
    """A box of each picture, antialiased to (b, c, size_px, size_px) uint8.

    A resize is linear and separable: rows times picture times columns. As matrix products it is
    exact for boxes that begin within a pixel, and takes a GPU some 20 us a picture of 224 px.

    Args:
        images_bchw: uint8.
        boxes_b4: float; top, left, height, width, px of the pictures.
    """
    height, width = images_bchw.shape[-2:]
    # float32 holds a place in a picture to 1e-4 px; float64 is not to be had on Apple's GPUs.
    top_b, left_b, height_b, width_b = boxes_b4.float().to(images_bchw.device).unbind(1)
    rows_b1sh = _resize_weights(top_b, height_b, height, size_px)[:, None]
    columns_b1ws = _resize_weights(left_b, width_b, width, size_px)[:, None].transpose(-1, -2)
    resized_bcss = rows_b1sh @ images_bchw.float() @ columns_b1ws
    return resized_bcss.round_().clamp_(0, 255).to(torch.uint8)


def _resize_weights(
    start_b: torch.Tensor, length_b: torch.Tensor, num_in: int, num_out: int
) -> torch.Tensor:
    """(b, num_out, num_in): what each pixel along a side gives to each new one.

    Bilinear, antialiased: a triangle about the new pixel's centre, as wide as it takes to reach
    the next one's (Pillow's and torch's filter). Pixels outside the box give nothing, as if it had
    been cut out first; those on its edge give their share.
    """
    start_b11, length_b11 = start_b.view(-1, 1, 1), length_b.view(-1, 1, 1)
    step_b11 = length_b11 / num_out
    out_s1 = torch.arange(num_out, device=start_b.device).view(-1, 1)
    in_w = torch.arange(num_in, device=start_b.device)
    centre_bs1 = start_b11 + (out_s1 + 0.5) * step_b11
    reach_b11 = step_b11.clamp(min=1.0)
    triangle_bsw = (1 - (in_w + 0.5 - centre_bs1).abs() / reach_b11).clamp(min=0)
    end_b11 = start_b11 + length_b11
    inside_b1w = (torch.minimum(in_w + 1, end_b11) - torch.maximum(in_w, start_b11)).clamp(0, 1)
    weights_bsw = triangle_bsw * inside_b1w
    return weights_bsw / weights_bsw.sum(dim=-1, keepdim=True)


def draw_crops(
    sizes_b2: torch.Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Random boxes inside pictures: (b, 2) heights and widths to (b, 4) top, left, height, width.

    Area is uniform in `scale`, log(width / height) uniform in log(`ratio`). Of ten draws a
    picture takes the first that fits; if none does, the largest box of allowed ratio. Either lies
    at a random place, so that no part of a long picture goes unseen.
    """
    num = len(sizes_b2)
    uniform = torch.rand(2, num, NUM_TRIES, generator=generator, dtype=torch.float64)
    place_b2 = torch.rand(num, 2, generator=generator, dtype=torch.float64)
    picture_h, picture_w = sizes_b2.double().T.unsqueeze(-1)  # each (b, 1)
    area = picture_h * picture_w * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(log_low + (log_high - log_low) * uniform[1])
    width = torch.sqrt(area * aspect).round().clamp(min=1)
    height = torch.sqrt(area / aspect).round().clamp(min=1)
    fits = (width <= picture_w) & (height <= picture_h)
    first = fits.int().argmax(dim=1, keepdim=True)  # 0 where none fits; replaced below

    allowed = (picture_w / picture_h).clamp(ratio[0], ratio[1])
    largest_h = torch.minimum(picture_h, picture_w / allowed).round().clamp(min=1)
    largest_w = torch.minimum(picture_w, picture_h * allowed).round().clamp(min=1)

    some_fit = fits.any(dim=1, keepdim=True)
    size_b2 = torch.cat(
        (
            torch.where(some_fit, height.gather(1, first), largest_h),
            torch.where(some_fit, width.gather(1, first), largest_w),
        ),
        dim=1,
    )
    corner_b2 = (place_b2 * (sizes_b2 - size_b2 + 1)).floor()
    return torch.cat((corner_b2, size_b2), dim=1).long()
