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
