"""MixUp and CutMix: two pictures in one, and targets to match.

Each picture of a batch is mixed with the one before it (the first with the last): batches are
shuffled, so that is a random partner. One share is drawn a batch, as in the papers' own code and in
torchvision and timm.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


def mix_batch_(
    images_bchw: torch.Tensor,
    labels_b: torch.Tensor,
    num_classes: int,
    generator: torch.Generator,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the pictures of a batch by MixUp or CutMix; where both are on, by a coin each batch.

    In place: the pictures are written to.

    Args:
        images_bchw: float; labels_b: (b,) int64, on the same device.
        mixup_alpha, cutmix_alpha: of the Beta(alpha, alpha) that the share is drawn from; 0: off.

    Returns:
        The pictures; and (b, k) float targets, each row of sum 1. Labels as they came, where
        nothing is to be mixed.
    """
    if len(images_bchw) < 2 or not (mixup_alpha or cutmix_alpha):
        return images_bchw, labels_b
    takes_cutmix = bool(cutmix_alpha)
    if mixup_alpha and cutmix_alpha:
        takes_cutmix = bool(torch.rand((), generator=generator) < 0.5)
    share = draw_share(cutmix_alpha if takes_cutmix else mixup_alpha, generator)
    if takes_cutmix:
        images_bchw, share = cutmix_(images_bchw, share, generator)
    else:
        images_bchw = mixup_(images_bchw, share)
    return images_bchw, soft_targets(labels_b, share, num_classes)


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """A share of the first picture, from Beta(alpha, alpha)."""
    # torch draws no Beta from a generator of one's own; numpy does, seeded by ours.
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mixup_(images_bchw: torch.Tensor, share: float) -> torch.Tensor:
    """`share` of each picture and the rest of the one before (Zhang et al. 2018, eq. 1).

    In place, from the last picture to the first: no second batch has to fit into memory.
    """
    last_chw = images_bchw[-1].clone()
    for i in range(len(images_bchw) - 1, 0, -1):
        images_bchw[i].lerp_(images_bchw[i - 1], 1 - share)
    images_bchw[0].lerp_(last_chw, 1 - share)
    return images_bchw


def cutmix_(
    images_bchw: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    """Paste a rectangle of the picture before into each (Yun et al. 2019, appendix A). In place.

    Its area is 1 - `share` of the picture, but for what its random centre puts outside.

    Returns:
        The pictures, and the share of its own that each has in fact.
    """
    height, width = images_bchw.shape[-2:]
    centre_y = int(torch.randint(height, (), generator=generator))
    centre_x = int(torch.randint(width, (), generator=generator))
    half = 0.5 * math.sqrt(1 - share)
    top, bottom = max(0, centre_y - int(half * height)), min(height, centre_y + int(half * height))
    left, right = max(0, centre_x - int(half * width)), min(width, centre_x + int(half * width))
    part = images_bchw[..., top:bottom, left:right]
    part.copy_(part.roll(1, 0))
    return images_bchw, 1 - (bottom - top) * (right - left) / (height * width)


def soft_targets(labels_b: torch.Tensor, share: float, num_classes: int) -> torch.Tensor:
    """(b, k) float32: `share` on a picture's own label, the rest on that of the one before."""
    own_bk = F.one_hot(labels_b, num_classes).float()
    return own_bk * share + own_bk.roll(1, 0) * (1 - share)
