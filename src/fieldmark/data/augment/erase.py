"""Random erasing (Zhong et al. 2017, "Random Erasing Data Augmentation", algorithm 1)."""

from __future__ import annotations

import torch

from fieldmark.data.augment.crop import draw_crops

ERASED_AREA = (0.02, 0.4)  # share of the picture: s_l and s_h in the paper, sec. 4.2
ERASED_RATIO = (0.3, 1 / 0.3)  # r_1 and r_2; the paper's is height / width, and symmetric


def random_erase(
    images_bchw: torch.Tensor, probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Fill a rectangle of a picture with noise, with this probability.

    Each pixel and channel of it is uniform from black to white, as in the paper; area and log of
    the proportions are uniform.

    Args:
        images_bchw: float in 0-1.

    Returns:
        A new tensor; the one that came, where the probability is 0.
    """
    if probability == 0:
        return images_bchw
    num, channels, height, width = images_bchw.shape
    chosen_b = torch.rand(num, generator=generator) < probability
    sizes_b2 = torch.tensor([[height, width]]).expand(num, -1)
    boxes_b4 = draw_crops(sizes_b2, ERASED_AREA, ERASED_RATIO, generator)
    erased = images_bchw.clone()
    for i in chosen_b.nonzero().flatten().tolist():
        top, left, high, wide = boxes_b4[i].tolist()
        # Drawn on the CPU as bytes: the same on every device, and little to send to one.
        noise_chw = torch.randint(
            256, (channels, high, wide), dtype=torch.uint8, generator=generator
        )
        part = erased[i, :, top : top + high, left : left + wide]
        part.copy_(noise_chw.to(part.device) / 255)
    return erased
