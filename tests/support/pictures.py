"""Generators of random numbers, and pictures of noise, as tests of augmentation want them."""

from __future__ import annotations

import torch


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def noise_batch(num: int, channels: int = 3, height: int = 10, width: int = 12) -> torch.Tensor:
    """(num, channels, height, width) uint8, always the same."""
    shape = (num, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(9))


def smooth_batch(num: int, channels: int, height: int, width: int) -> torch.Tensor:
    """(num, channels, height, width) uint8 without sharp edges, every picture another."""
    coarse = torch.rand(num, channels, 5, 5, generator=seeded(1)) * 255
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return fine.round().clamp(0, 255).to(torch.uint8)
