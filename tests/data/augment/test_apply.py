"""A recipe's augmentation: everything it says, and nothing else; by the generator alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.auto import PRESETS, settle_augment
from fieldmark.data.augment.apply import (
    augment_batch,
    crop_canvases,
    crop_pictures,
    crops_randomly,
    mix_by_recipe,
    uncropped,
)
from fieldmark.data.augment.geometry import flip
from fieldmark.recipe import AugmentRecipe
from support.pictures import noise_batch, seeded, smooth_batch


def settled(preset: Any, **words: Any) -> AugmentRecipe:
    return settle_augment(AugmentRecipe(preset=preset, **words))


NONE, STANDARD = settled("none"), settled("standard")
EVERYTHING = replace(
    STANDARD, vflip=0.5, rotate_degrees=20.0, hue=0.1, policy="randaugment", erase=0.5
)


def test_a_crop_scale_of_one_means_no_random_crop() -> None:
    assert not crops_randomly(NONE)
    assert crops_randomly(STANDARD)


def test_no_words_leave_the_pictures_untouched() -> None:
    images = noise_batch(3)
    assert torch.equal(augment_batch(uncropped(images, NONE, seeded()), NONE, seeded()), images)
    pictures, targets = mix_by_recipe(images, torch.tensor([0, 1, 0]), 2, NONE, seeded())
    assert pictures is images
    assert targets.tolist() == [0, 1, 0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", [*PRESETS, "everything"])
def test_the_result_lies_between_black_and_white(preset: str, channels: int) -> None:
    words = EVERYTHING if preset == "everything" else settled(preset)
    images = noise_batch(6, channels)
    before = images.clone()
    augmented = augment_batch(uncropped(images, words, seeded()), words, seeded())
    assert augmented.shape == images.shape
    assert torch.equal(images, before)  # the store's pictures are not written to
    if augmented.dtype == torch.uint8:
        return
    assert augmented.dtype == torch.float32
    assert augmented.min() >= 0
    assert augmented.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("vflip", 1.0),
        ("rotate_degrees", 30.0),
        ("brightness", 0.5),
        ("contrast", 0.5),
        ("saturation", 0.5),
        ("hue", 0.2),
        ("policy", "randaugment"),
        ("policy", "trivialaugment"),
        ("erase", 1.0),
    ],
)
def test_every_word_has_its_effect(word: str, value: Any) -> None:
    images = smooth_batch(8, 3, 24, 24)
    changed = augment_batch(images, replace(NONE, **{word: value}), seeded())
    if changed.dtype != torch.uint8:
        changed = (changed * 255).round().to(torch.uint8)
    assert (changed != images).any()


def test_flips_are_part_of_every_way_of_cropping() -> None:
    words = replace(NONE, hflip=1.0, crop_scale=(1.0, 1.0))
    images = noise_batch(2, height=16, width=16)
    assert torch.equal(uncropped(images, words, seeded()), images.flip(-1))
    whole = replace(words, crop_scale=(0.9999, 1.0), crop_ratio=(1.0, 1.0))
    pictures = [np.asarray(x.permute(1, 2, 0)) for x in images]
    assert torch.equal(crop_pictures(pictures, 16, whole, seeded()), images.flip(-1))
    from_canvas = crop_canvases(images, torch.ones(2), 16, whole, seeded())
    assert torch.equal(from_canvas, images.flip(-1))


def test_pictures_and_canvases_are_cropped_and_flipped_alike() -> None:
    images = smooth_batch(20, 3, 36, 36)
    pictures = [np.asarray(x.permute(1, 2, 0)) for x in images]
    words = replace(NONE, hflip=0.5, crop_scale=(0.3, 1.0), crop_ratio=(0.75, 1.333))
    one, other = seeded(3), seeded(3)
    cropped = crop_pictures(pictures, 24, words, one).int()
    from_canvas = crop_canvases(images, torch.ones(20), 24, words, other).int()
    assert (cropped - from_canvas).abs().max() <= 1
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))


def test_the_generator_alone_decides() -> None:
    images = noise_batch(6)
    torch.manual_seed(1)
    first = augment_batch(images, EVERYTHING, seeded(4))
    torch.manual_seed(2)
    again = augment_batch(images, EVERYTHING, seeded(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment_batch(images, EVERYTHING, seeded(5)))
    assert torch.equal(flip(images, 0.5, seeded(4), dim=-1), flip(images, 0.5, seeded(4), dim=-1))
