"""Colour: four words that are one matrix a picture."""

from __future__ import annotations

import cmath
import colorsys
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.data.augment.colour import hue_matrices, jitter_color, saturation_matrices
from support.pictures import noise_batch, seeded

YIQ_LUMA = torch.tensor([0.30, 0.59, 0.11])


def test_hue_leaves_the_luma_alone_and_a_full_turn_is_none() -> None:
    turns = torch.tensor([0.3, 2.0, math.pi, 2 * math.pi])
    matrices = hue_matrices(turns)
    torch.testing.assert_close(YIQ_LUMA @ matrices, YIQ_LUMA.expand(4, 3), atol=1e-6, rtol=0)
    grey = torch.full((3,), 0.4)
    torch.testing.assert_close(matrices @ grey, grey.expand(4, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(matrices[3], torch.eye(3), atol=1e-5, rtol=0)
    assert (matrices[:3] - torch.eye(3)).abs().amax(dim=(1, 2)).min() > 0.1


@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(-3.1, 3.1))
def test_hue_turns_the_chroma_plane_of_colorsys(
    rgb: tuple[float, float, float], turn: float
) -> None:
    y, i, q = colorsys.rgb_to_yiq(*(hue_matrices(torch.tensor([turn]))[0] @ torch.tensor(rgb)))
    y_before, i_before, q_before = colorsys.rgb_to_yiq(*rgb)
    assert float(y) == pytest.approx(y_before, abs=1e-4)
    turned = complex(i_before, q_before) * complex(math.cos(turn), math.sin(turn))
    assert abs(complex(float(i), float(q)) - turned) < 1e-3


def test_the_hue_turns_either_way_and_no_further_than_asked() -> None:
    reddish = torch.tensor([0.5, 0.4, 0.4]).view(1, 3, 1, 1).expand(2000, -1, -1, -1)
    turned = jitter_color(reddish, seeded(), hue=0.1)[:, :, 0, 0].tolist()
    before = complex(*colorsys.rgb_to_yiq(0.5, 0.4, 0.4)[1:])
    turns = [cmath.phase(complex(*colorsys.rgb_to_yiq(*rgb)[1:]) / before) for rgb in turned]
    share_of_circle = torch.tensor(turns) / (2 * math.pi)
    assert -0.102 < share_of_circle.min() < -0.098
    assert 0.098 < share_of_circle.max() < 0.102
    assert share_of_circle.mean().item() == pytest.approx(0, abs=0.0055)


def test_saturation_and_hue_leave_grey_pictures_alone() -> None:
    grey = noise_batch(4, channels=1).float() / 255
    assert torch.equal(jitter_color(grey, seeded(), saturation=0.9, hue=0.5), grey)
    as_rgb = grey.expand(-1, 3, -1, -1)
    jittered = jitter_color(as_rgb, seeded(), saturation=0.9, hue=0.5)
    torch.testing.assert_close(jittered, as_rgb, atol=1e-3, rtol=0)


def test_factors_differ_between_pictures_and_stay_in_bounds() -> None:
    flat = torch.full((2000, 1, 1, 1), 0.5)
    factors = jitter_color(flat, seeded(), brightness=0.2).flatten() / 0.5
    assert 0.8 <= factors.min() < 0.802
    assert 1.198 < factors.max() <= 1.2
    assert factors.mean().item() == pytest.approx(1.0, abs=0.011)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_floats_give_the_same_and_lie_in_memory_as_they_came(channels: int) -> None:
    words = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.1}
    images = noise_batch(19, channels)
    floats = jitter_color(images.float() / 255, seeded(), **words)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    for given_images in (images, laid_out):
        ours = jitter_color(given_images, seeded(), **words)
        torch.testing.assert_close(ours, floats, atol=1e-6, rtol=0)
        assert ours.stride() == given_images.stride()


def test_all_four_together_are_one_after_the_other_where_nothing_is_clamped() -> None:
    """Pictures of middle greys, which small factors do not drive beyond black or white."""
    images = 0.4 + 0.2 * noise_batch(7).float() / 255
    words = {"brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05}
    together = jitter_color(images, seeded(5), **words)
    generator = seeded(5)
    one_by_one = images
    for word, spread in words.items():
        one_by_one = jitter_color(one_by_one, generator, **{word: spread})
    torch.testing.assert_close(together, one_by_one, atol=2e-4, rtol=0)  # LUMA adds up to 0.9999
    assert (together - images).abs().max() > 0.05


def test_what_is_driven_beyond_white_is_clamped_once_and_in_the_end() -> None:
    """Brightened beyond white and then brought back by less contrast, two greys stay two."""
    images = torch.tensor([0.8, 0.9]).view(1, 1, 1, 2).repeat(2000, 1, 1, 1)
    generator = seeded()
    brightness = 1 + 0.5 * (torch.rand(2000, generator=generator) * 2 - 1)
    contrast = 1 + 0.9 * (torch.rand(2000, generator=generator) * 2 - 1)
    jittered = jitter_color(images, seeded(), brightness=0.5, contrast=0.9)[:, 0, 0]
    by_hand = (0.85 + contrast[:, None] * torch.tensor([-0.05, 0.05])) * brightness[:, None]
    torch.testing.assert_close(jittered, by_hand.clamp(0, 1), atol=1e-5, rtol=0)
    back_again = (0.9 * brightness > 1) & (by_hand.max(dim=1).values < 1)
    assert back_again.sum() >= 3
    assert (jittered[back_again].diff(dim=1) > 0).all()


def test_saturation_goes_from_the_own_grey_to_beyond() -> None:
    grey, same, more = saturation_matrices(torch.tensor([0.0, 1.0, 2.0]))
    colour = torch.tensor([0.7, 0.2, 0.4])
    luma = 0.2989 * 0.7 + 0.587 * 0.2 + 0.114 * 0.4
    torch.testing.assert_close(grey @ colour, torch.full((3,), luma))
    torch.testing.assert_close(same @ colour, colour)
    torch.testing.assert_close(more @ colour, 2 * colour - luma)
