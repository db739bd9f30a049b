"""Random erasing (Zhong et al. 2017, "Random Erasing Data Augmentation", algorithm 1)."""

from __future__ import annotations

import torch

from fieldmark.data.augment.crop import draw_crops

ERASED_AREA = (0.02, 0.4)  # share of the picture: s_l and s_h in the paper, sec. 4.2
ERASED_RATIO = (0.3, 1 / 0.3)  # r_1 and r_2; the paper's is height / width, and symmetric


def random_erase_(
    images_bchw: torch.Tensor, probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Fill a rectangle of a picture with noise, with this probability. In place, and returned.

    Each pixel and channel of it is uniform from black to white, as in the paper; area and log of
    the proportions are uniform.

    Args:
        images_bchw: uint8, or float in 0-1.
    """
    num, channels, height, width = images_bchw.shape
    chosen_b = torch.rand(num, generator=generator) < probability
    sizes_b2 = torch.tensor([[height, width]]).expand(num, -1)
    boxes_b4 = draw_crops(sizes_b2, ERASED_AREA, ERASED_RATIO, generator)
    for i in chosen_b.nonzero().flatten().tolist():
        top, left, high, wide = boxes_b4[i].tolist()
        # Drawn on the CPU as bytes: the same on every device, and little to send to one.
        noise_chw = torch.randint(
            256, (channels, high, wide), dtype=torch.uint8, generator=generator
        )
        part = images_bchw[i, :, top : top + high, left : left + wide]
        noise_chw = noise_chw.to(part.device)
        part.copy_(noise_chw if part.dtype == torch.uint8 else noise_chw / 255)
    return images_bchw
