"""Flips and rotation: how often, how far, and what comes in at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldmark.data.augment.geometry import flip, rotate
from support.pictures import noise_batch, seeded


@pytest.mark.parametrize(("dim", "axis"), [(-1, 2), (-2, 1)])
def test_about_as_many_pictures_are_mirrored_as_asked(dim: int, axis: int) -> None:
    images = noise_batch(2000, height=2, width=3)
    flipped = flip(images, 0.3, seeded(), dim=dim)
    mirrored = (flipped == images.flip(dim)).flatten(1).all(dim=1)
    same = (flipped == images).flatten(1).all(dim=1)
    assert (mirrored | same).all()
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.045)  # 4 standard errors
    one = images[0].numpy()
    assert (flip(images[:1], 1.0, seeded(), dim=dim)[0].numpy() == np.flip(one, axis)).all()


def test_a_rotation_brings_in_the_picture_mirrored_not_black() -> None:
    white = torch.ones(8, 1, 20, 30)
    torch.testing.assert_close(rotate(white, 180.0, seeded()), white)


def test_a_half_turn_is_both_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.ones(*size))
    images = noise_batch(2).float() / 255
    turned = rotate(images, 180.0, seeded())
    torch.testing.assert_close(turned, images.flip(-1).flip(-2), atol=1e-5, rtol=0)


def test_a_flip_leaves_the_pictures_that_came_alone() -> None:
    images = noise_batch(6)
    before = images.clone()
    assert not torch.equal(flip(images, 0.5, seeded(), dim=-1), images)
    assert torch.equal(images, before)
    assert flip(images, 0.0, seeded(), dim=-1) is images
