"""Augmentation: what is drawn, within which bounds, and that it is drawn from the generator alone.
What each function does to pixels is compared with torchvision in tests/parity."""

from __future__ import annotations

import cmath
import colorsys
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.auto import PRESETS, settle_augment
from fieldmark.data.augment import (
    augment_batch,
    crops_randomly,
    draw_crops,
    flip,
    hue_matrices,
    jitter_color,
    random_resized_crop,
    rotate,
)
from fieldmark.recipe import AugmentRecipe

NONE = settle_augment(AugmentRecipe(preset="none"), grey=False, size_px=224)
STANDARD = settle_augment(AugmentRecipe(preset="standard"), grey=False, size_px=224)
EVERYTHING = replace(STANDARD, vflip=0.5, rotate_degrees=20.0, hue=0.1)
YIQ_LUMA = torch.tensor([0.30, 0.59, 0.11])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(num: int, channels: int = 3, height: int = 10, width: int = 12) -> torch.Tensor:
    shape = (num, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(9))


# The random crop ---------------------------------------------------------------------------------

sides = st.integers(1, 30) | st.integers(1, 5000)
scales = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple)
ratios = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted).map(tuple)


@given(
    st.lists(st.tuples(sides, sides), min_size=1, max_size=8), scales, ratios, st.integers(0, 99)
)
def test_boxes_lie_inside_and_keep_the_bounds(
    sizes: list[tuple[int, int]],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
) -> None:
    boxes = draw_crops(torch.tensor(sizes), scale, ratio, seeded(seed)).tolist()
    for (picture_h, picture_w), (top, left, height, width) in zip(sizes, boxes, strict=True):
        assert height >= 1
        assert width >= 1
        assert 0 <= top <= picture_h - height
        assert 0 <= left <= picture_w - width
        # Sides are whole pixels: half a pixel either way, and never below one.
        low_h, high_h = (height - 0.5 if height > 1 else 1e-9), height + 0.5
        low_w, high_w = (width - 0.5 if width > 1 else 1e-9), width + 0.5
        assert low_w / high_h <= ratio[1] * 1.0001
        assert high_w / low_h >= ratio[0] * 0.9999
        fills = height == picture_h or width == picture_w  # the fallback, or as good as it
        area = picture_h * picture_w
        assert fills or (
            low_h * low_w <= scale[1] * area * 1.0001
            and high_h * high_w >= scale[0] * area * 0.9999
        )


@pytest.mark.parametrize(
    ("size", "scale", "ratio", "box"),
    [
        # (height, width) and the largest (height, width) allowed
        ((10, 4000), (0.35, 1.0), (0.75, 1.333), (10, 13)),
        ((4000, 10), (0.35, 1.0), (0.75, 1.333), (13, 10)),
        ((200, 300), (0.8, 1.0), (0.9, 1.11), (200, 222)),  # the light preset on a 3:2 photo
    ],
)
def test_where_no_draw_fits_the_largest_box_goes_anywhere(
    size: tuple[int, int], scale: Any, ratio: Any, box: tuple[int, int]
) -> None:
    boxes = draw_crops(torch.tensor([size] * 2000), scale, ratio, seeded())
    assert {tuple(b[2:]) for b in boxes.tolist()} == {box}
    for corner, free in ((boxes[:, 0], size[0] - box[0]), (boxes[:, 1], size[1] - box[1])):
        assert corner.min() <= 0.01 * free
        assert corner.max() >= 0.99 * free


def test_the_whole_of_a_square_is_the_largest_crop() -> None:
    assert draw_crops(torch.tensor([[7, 7]]), (1.0, 1.0), (1.0, 1.0), seeded()).tolist() == [
        [0, 0, 7, 7]
    ]


def test_areas_are_uniform_and_shapes_log_uniform_and_places_everywhere() -> None:
    num = 6000
    boxes = draw_crops(torch.tensor([[1000, 1000]] * num), (0.1, 0.5), (0.5, 2.0), seeded(1))
    top, left, height, width = boxes.double().T
    # A ratio of 2 with up to half the area always fits: nothing is drawn anew.
    for drawn, low, high in (
        (height * width / 1e6, 0.1, 0.5),
        ((width / height).log(), -math.log(2), math.log(2)),
        (top / (1000 - height), 0.0, 1.0),
        (left / (1000 - width), 0.0, 1.0),
    ):
        in_order = drawn.sort().values
        uniform = torch.linspace(low, high, num, dtype=torch.float64)
        # Kolmogorov-Smirnov against the uniform distribution, 0.1 % critical value.
        assert (in_order - uniform).abs().max() / (high - low) < 1.95 / num**0.5


def test_every_place_in_a_small_picture_is_taken_equally_often() -> None:
    boxes = draw_crops(torch.tensor([[4, 5]] * 4000), (0.2, 0.2), (1.0, 1.0), seeded())
    assert boxes[:, 2:].unique(dim=0).tolist() == [[2, 2]]
    counts = torch.bincount(boxes[:, 0] * 4 + boxes[:, 1], minlength=12)
    assert (counts / 4000).tolist() == pytest.approx([1 / 12] * 12, abs=0.02)  # 4.5 standard errors


def test_crops_of_any_size_make_one_batch() -> None:
    pictures = [
        np.full((h, w, 1), value, np.uint8)
        for h, w, value in ((1, 1, 5), (90, 7, 80), (20, 40, 255))
    ]
    batch = random_resized_crop(pictures, 16, (0.35, 1.0), (0.75, 1.333), seeded())
    assert batch.shape == (3, 1, 16, 16)
    assert batch.dtype == torch.uint8
    for image, value in zip(batch, (5, 80, 255), strict=True):
        assert (image == value).all()  # a flat picture stays what it is


def test_a_crop_scale_of_one_means_no_random_crop() -> None:
    assert not crops_randomly(NONE)
    assert crops_randomly(STANDARD)


# Flip and rotation -------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "axis"), [(-1, 2), (-2, 1)])
def test_about_as_many_pictures_are_mirrored_as_asked(dim: int, axis: int) -> None:
    images = noise(2000, height=2, width=3)
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
    images = noise(2).float() / 255
    turned = rotate(images, 180.0, seeded())
    torch.testing.assert_close(turned, images.flip(-1).flip(-2), atol=1e-5, rtol=0)


# Colour ------------------------------------------------------------------------------------------


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
    grey = noise(4, channels=1).float() / 255
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


# All together ------------------------------------------------------------------------------------


def test_no_words_leave_the_pictures_untouched() -> None:
    images = noise(3)
    assert torch.equal(augment_batch(images, NONE, seeded()), images.float() / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", [*PRESETS, "everything"])
def test_the_result_is_float_from_black_to_white(preset: str, channels: int) -> None:
    words = EVERYTHING
    if preset != "everything":
        words = settle_augment(AugmentRecipe(preset=preset), grey=False, size_px=224)
    images = noise(6, channels)
    before = images.clone()
    augmented = augment_batch(images, words, seeded())
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert augmented.min() >= 0
    assert augmented.max() <= 1 + 1e-6
    assert torch.equal(images, before)  # the store's pictures are not written to


def test_the_generator_alone_decides() -> None:
    images = noise(6)
    torch.manual_seed(1)
    first = augment_batch(images, EVERYTHING, seeded(4))
    torch.manual_seed(2)
    again = augment_batch(images, EVERYTHING, seeded(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment_batch(images, EVERYTHING, seeded(5)))
