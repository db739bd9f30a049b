"""Brightness, contrast, saturation and hue: one 3 x 3 matrix and one offset a picture."""

from __future__ import annotations

import math

import torch

# Rec. 601 luma, the weights behind torchvision's and Pillow's grey.
LUMA = (0.2989, 0.587, 0.114)

# RGB <-> YIQ (NTSC, FCC 1953; coefficients as in Python's colorsys). A turn of the IQ plane is a
# turn of the hue that leaves the luma alone, so hue, too, becomes a 3x3 matrix a picture.
_RGB_TO_YIQ = torch.tensor(
    [[0.30, 0.59, 0.11], [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]]
)

# Pictures at a time on a CPU: so many of 224 px stay in its cache from one step to the next.
_CPU_SLICE = 8


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
    What comes out beyond black or white is clamped once, in the end: each of the four is linear in
    the colours, so together they are one matrix, and nothing is lost on the way.

    Args:
        images_bchw: uint8, or float in 0-1.

    Returns:
        float32 in 0-1; uint8 as it came where no word has an effect.
    """
    num, channels = images_bchw.shape[:2]
    if channels == 1:
        saturation = hue = 0.0
    if not (brightness or contrast or saturation or hue):
        return images_bchw

    def draw(spread: float) -> torch.Tensor:
        return spread * (torch.rand(num, generator=generator) * 2 - 1)

    brightness_b = 1 + draw(brightness) if brightness else torch.ones(num)
    contrast_b = 1 + draw(contrast) if contrast else None
    matrix_bcc = torch.eye(channels).expand(num, -1, -1)
    if saturation:
        matrix_bcc = saturation_matrices(1 + draw(saturation))
    if hue:
        matrix_bcc = hue_matrices(draw(hue) * 2 * math.pi) @ matrix_bcc
    return _apply(images_bchw, brightness_b, contrast_b, matrix_bcc)


def _apply(
    images_bchw: torch.Tensor,
    brightness_b: torch.Tensor,
    contrast_b: torch.Tensor | None,
    matrix_bcc: torch.Tensor,
) -> torch.Tensor:
    device, shape = images_bchw.device, images_bchw.shape
    factor_b11 = brightness_b.view(-1, 1, 1).to(device)
    if images_bchw.dtype == torch.uint8:
        factor_b11 = factor_b11 / 255
    matrix_bcc = matrix_bcc.to(device)
    if contrast_b is not None:
        contrast_b11 = contrast_b.view(-1, 1, 1).to(device)
    done = torch.empty_like(images_bchw, dtype=torch.float32)
    step = _CPU_SLICE if device.type == "cpu" else len(images_bchw)
    for i in range(0, len(images_bchw), step):
        part = slice(i, i + step)
        colours_bcp = (
            images_bchw[part].to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
        )
        scale_b11, offset_bc1 = factor_b11[part], torch.zeros(1, device=device)
        if contrast_b is not None:
            # Towards the mean grey of the picture as it is by now, brightened.
            mean_bc1 = scale_b11 * colours_bcp.mean(dim=2, keepdim=True)
            grey_b11 = _luma_weights(mean_bc1) @ mean_bc1
            offset_bc1 = matrix_bcc[part] @ ((1 - contrast_b11[part]) * grey_b11).expand_as(
                mean_bc1
            )
            scale_b11 = scale_b11 * contrast_b11[part]
        mixed_bcp = torch.baddbmm(offset_bc1, scale_b11 * matrix_bcc[part], colours_bcp)
        done[part] = mixed_bcp.clamp_(0, 1).view(-1, *shape[1:])
    return done


def saturation_matrices(factor_b: torch.Tensor) -> torch.Tensor:
    """(b,) factors to the (b, 3, 3) matrices between the picture's own grey (0) and itself (1)."""
    factor_b11 = factor_b.view(-1, 1, 1)
    to_grey_33 = torch.tensor(LUMA).expand(3, 3)
    return torch.lerp(to_grey_33, torch.eye(3), factor_b11)


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


def _luma_weights(like_bc1: torch.Tensor) -> torch.Tensor:
    """(1, 1, c): what each channel gives to the grey of a picture."""
    weights = LUMA if like_bc1.shape[1] == 3 else (1.0,)
    return torch.tensor([[weights]], device=like_bc1.device).expand(len(like_bc1), -1, -1)
