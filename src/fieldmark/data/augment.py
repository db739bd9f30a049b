"""Augmentation of training pictures: plain batched functions with an explicit generator.

Every function draws one set of random numbers a picture from the generator it is given, so a
batch depends on that generator alone. Factors are drawn on the CPU whatever the device, which
keeps the draws equal across devices.

    crop            uint8 pictures of any size -> (b, c, size, size) uint8, on the CPU: the
                    antialiased uint8 resize is several times faster there than sampling floats
    flip, rotate,
    jitter_color    (b, c, h, w) -> the same shape, dtype and device; the last two on floats in 0-1
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from fieldmark.data.preprocess import Pixels
from fieldmark.recipe import AugmentRecipe

# Rec. 601 luma, the weights behind torchvision's and Pillow's grey.
LUMA = (0.2989, 0.587, 0.114)

# RGB <-> YIQ (NTSC, FCC 1953; coefficients as in Python's colorsys). A turn of the IQ plane is a
# turn of the hue that leaves the luma alone, so hue, too, becomes a 3x3 matrix a picture.
_RGB_TO_YIQ = torch.tensor(
    [[0.30, 0.59, 0.11], [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]]
)


def crops_randomly(augment: AugmentRecipe) -> bool:
    """False when the crop words ask for the whole picture: then `Preprocess` crops as ever."""
    return augment.crop_scale != (1.0, 1.0)


def augment_batch(
    images_bchw: torch.Tensor, augment: AugmentRecipe, generator: torch.Generator
) -> torch.Tensor:
    """Everything after the crop: (b, c, h, w) uint8 to float32 in 0-1, same device."""
    images_bchw = flip(images_bchw, _number(augment.hflip), generator, dim=-1)
    images_bchw = flip(images_bchw, _number(augment.vflip), generator, dim=-2)
    images_bchw = images_bchw.float() / 255
    images_bchw = rotate(images_bchw, _number(augment.rotate_degrees), generator)
    return jitter_color(
        images_bchw,
        generator,
        brightness=_number(augment.brightness),
        contrast=_number(augment.contrast),
        saturation=_number(augment.saturation),
        hue=_number(augment.hue),
    )


def random_resized_crop(
    pictures: Sequence[Pixels],
    size_px: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Cut a random part of each picture and resize it to the input (Szegedy et al. 2014, sec. 6).

    Args:
        pictures: (h, w, c) uint8 arrays, each of its own size.
        scale: area of the part as a share of the picture, smallest and largest.
        ratio: width / height of the part, smallest and largest.

    Returns:
        (b, c, size_px, size_px) uint8.
    """
    sizes_b2 = torch.tensor([picture.shape[:2] for picture in pictures])
    boxes_b4 = draw_crops(sizes_b2, scale, ratio, generator)
    out = []
    for picture, (top, left, height, width) in zip(pictures, boxes_b4.tolist(), strict=True):
        part = torch.from_numpy(picture[top : top + height, left : left + width])
        # uint8 in, uint8 out: torch resamples whole numbers several times faster than floats.
        resized_1chw = F.interpolate(
            part.permute(2, 0, 1)[None],
            size=(size_px, size_px),
            mode="bilinear",
            antialias=True,
        )
        out.append(resized_1chw)
    return torch.cat(out)


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
    num, tries = len(sizes_b2), 10
    uniform = torch.rand(2, num, tries, generator=generator, dtype=torch.float64)
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


def flip(
    images_bchw: torch.Tensor, probability: float, generator: torch.Generator, *, dim: int
) -> torch.Tensor:
    """Mirror each picture along `dim` (-1 left-right, -2 upside down) with this probability."""
    if probability == 0:
        return images_bchw
    chosen_b = torch.rand(len(images_bchw), generator=generator) < probability
    chosen_b111 = chosen_b.view(-1, 1, 1, 1).to(images_bchw.device)
    return torch.where(chosen_b111, images_bchw.flip(dim), images_bchw)


def rotate(
    images_bchw: torch.Tensor, max_degrees: float, generator: torch.Generator
) -> torch.Tensor:
    """Turn each picture about its centre by an angle uniform in +-`max_degrees`.

    What comes in from outside is the picture mirrored at its edge, not black: black corners
    would exist in training pictures only. Square or not, lengths are kept.
    """
    if max_degrees == 0:
        return images_bchw
    height, width = images_bchw.shape[-2:]
    draw_b = torch.rand(len(images_bchw), generator=generator) * 2 - 1
    angle_b = torch.deg2rad(draw_b * max_degrees)
    cos_b, sin_b, zero_b = angle_b.cos(), angle_b.sin(), torch.zeros_like(angle_b)
    # Grid coordinates run from -1 to 1 on either axis, so a turn needs the side ratio.
    row_x = torch.stack((cos_b, -sin_b * height / width, zero_b), dim=-1)
    row_y = torch.stack((sin_b * width / height, cos_b, zero_b), dim=-1)
    turn_b23 = torch.stack((row_x, row_y), dim=1).to(images_bchw.device)
    grid_bhw2 = F.affine_grid(turn_b23, list(images_bchw.shape), align_corners=False)
    return F.grid_sample(images_bchw, grid_bhw2, padding_mode="reflection", align_corners=False)


def jitter_color(
    images_bchw: torch.Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> torch.Tensor:
    """Vary brightness, contrast, saturation and hue of each picture by random factors.

    The first three mean what they mean in torchvision's ColorJitter (a factor uniform in 1 +- x,
    towards black, the mean grey, or the picture's own grey), always in this order. Hue turns the
    chroma plane by a share of the circle uniform in +-`hue`; saturation and hue need 3 channels.
    """
    num, channels = images_bchw.shape[:2]

    def factor(spread: float, centre: float = 1.0) -> torch.Tensor:
        draw_b = torch.rand(num, generator=generator) * 2 - 1
        return (centre + spread * draw_b).view(-1, 1, 1, 1).to(images_bchw.device)

    if brightness:
        images_bchw = (images_bchw * factor(brightness)).clamp(0, 1)
    if contrast:
        mean_b111 = _luma(images_bchw).mean(dim=(-3, -2, -1), keepdim=True)
        images_bchw = torch.lerp(mean_b111, images_bchw, factor(contrast)).clamp(0, 1)
    if saturation and channels == 3:
        images_bchw = torch.lerp(_luma(images_bchw), images_bchw, factor(saturation)).clamp(0, 1)
    if hue and channels == 3:
        turn_b = (factor(hue, centre=0.0) * 2 * math.pi).flatten()
        matrix_b33 = hue_matrices(turn_b.cpu()).to(images_bchw.device)
        images_bchw = torch.einsum("bij,bjhw->bihw", matrix_b33, images_bchw).clamp(0, 1)
    return images_bchw


def hue_matrices(turn_b: torch.Tensor) -> torch.Tensor:
    """(b,) angles in radians to the (b, 3, 3) matrices that turn RGB hue and keep the luma."""
    cos_b, sin_b = turn_b.cos(), turn_b.sin()
    zero_b, one_b = torch.zeros_like(turn_b), torch.ones_like(turn_b)
    rows = (
        torch.stack((one_b, zero_b, zero_b), dim=-1),
        torch.stack((zero_b, cos_b, -sin_b), dim=-1),
        torch.stack((zero_b, sin_b, cos_b), dim=-1),
    )
    turn_b33 = torch.stack(rows, dim=1)
    matrix_b33: torch.Tensor = torch.linalg.inv(_RGB_TO_YIQ) @ turn_b33 @ _RGB_TO_YIQ
    return matrix_b33


def _luma(images_bchw: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) to the grey picture (b, 1, h, w)."""
    if images_bchw.shape[1] == 1:
        return images_bchw
    weights_c11 = torch.tensor(LUMA, device=images_bchw.device).view(3, 1, 1)
    return (images_bchw * weights_c11).sum(dim=1, keepdim=True)


def _number(word: float | str) -> float:
    """A word of a settled recipe; `fieldmark.auto` has replaced every "auto"."""
    assert not isinstance(word, str), "the recipe was not settled"
    return word
