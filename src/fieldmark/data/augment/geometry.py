"""Flips and rotation."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def flip(
    images_bchw: torch.Tensor, probability: float, generator: torch.Generator, *, dim: int
) -> torch.Tensor:
    """Mirror each picture along `dim` (-1 left-right, -2 upside down) with this probability."""
    chosen_b = draw_flips(len(images_bchw), probability, generator)
    if not chosen_b.any():
        return images_bchw
    where = chosen_b.nonzero().flatten().to(images_bchw.device)
    flipped = images_bchw.clone()
    flipped[where] = images_bchw[where].flip(dim)
    return flipped


def draw_flips(num: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """(num,) bool: which pictures to mirror. Nothing is drawn where the probability is 0."""
    if probability == 0:
        return torch.zeros(num, dtype=torch.bool)
    return torch.rand(num, generator=generator) < probability


def rotate(
    images_bchw: torch.Tensor, max_degrees: float, generator: torch.Generator
) -> torch.Tensor:
    """Turn each picture about its centre by an angle uniform in +-`max_degrees`.

    What comes in from outside is the picture mirrored at its edge, not black: black corners
    would exist in training pictures only. Square or not, lengths are kept.
    """
    if max_degrees == 0:
        return images_bchw
    (height, width), device = images_bchw.shape[-2:], images_bchw.device
    draw_b = torch.rand(len(images_bchw), generator=generator) * 2 - 1
    angle_b11 = torch.deg2rad(draw_b * max_degrees).view(-1, 1, 1).to(device)
    cos_b11, sin_b11 = angle_b11.cos(), angle_b11.sin()
    # Centres of pixels on an axis from -1 to 1, either side: so a turn needs the side ratio. As
    # sums of a row and a column, which a CPU has sooner than affine_grid's matrix product.
    x_w = (torch.arange(width, device=device) * 2 + 1) / width - 1
    y_h1 = ((torch.arange(height, device=device) * 2 + 1) / height - 1).view(-1, 1)
    from_x_bhw = cos_b11 * x_w - (sin_b11 * height / width) * y_h1
    from_y_bhw = (sin_b11 * width / height) * x_w + cos_b11 * y_h1
    grid_bhw2 = torch.stack((from_x_bhw, from_y_bhw), dim=-1)
    return F.grid_sample(images_bchw, grid_bhw2, padding_mode="reflection", align_corners=False)
