"""Augmentation as a recipe says: what, and in which order.

crop -> flips -> policy -> rotation -> colour -> erasing -> (normalised) -> MixUp or CutMix
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fieldmark.data.augment.colour import jitter_color
from fieldmark.data.augment.crop import random_resized_crop, random_resized_crop_batch
from fieldmark.data.augment.erase import random_erase_
from fieldmark.data.augment.geometry import flip, rotate
from fieldmark.data.augment.mix import mix_batch_
from fieldmark.data.augment.policy import randaugment, trivialaugment
from fieldmark.data.preprocess import Pixels
from fieldmark.recipe import AugmentRecipe


def crops_randomly(augment: AugmentRecipe) -> bool:
    """False when the crop words ask for the whole picture: then `Preprocess` crops as ever."""
    return augment.crop_scale != (1.0, 1.0)


def crop_pictures(
    pictures: Sequence[Pixels],
    size_px: int,
    augment: AugmentRecipe,
    generator: torch.Generator,
    out_bchw: torch.Tensor | None = None,
) -> torch.Tensor:
    """Random crops of pictures stored for crops, flipped left-right; see `random_resized_crop`."""
    scale, ratio = _crop_words(augment)
    hflip = _number(augment.hflip)
    return random_resized_crop(
        pictures, size_px, scale, ratio, generator, hflip=hflip, out_bchw=out_bchw
    )


def crop_canvases(
    canvases_bchw: torch.Tensor,
    aspects_b: torch.Tensor,
    size_px: int,
    augment: AugmentRecipe,
    generator: torch.Generator,
) -> torch.Tensor:
    """The same of a batch of canvases, with the same draws; see `random_resized_crop_batch`."""
    scale, ratio = _crop_words(augment)
    images_bchw = random_resized_crop_batch(
        canvases_bchw, aspects_b, size_px, scale, ratio, generator
    )
    return uncropped(images_bchw, augment, generator)


def uncropped(
    images_bchw: torch.Tensor, augment: AugmentRecipe, generator: torch.Generator
) -> torch.Tensor:
    """What is left of the two above for pictures that are shown whole: the left-right flip."""
    return flip(images_bchw, _number(augment.hflip), generator, dim=-1)


def augment_batch(
    images_bchw: torch.Tensor,
    augment: AugmentRecipe,
    generator: torch.Generator,
    fill: Sequence[float] | None = None,
) -> torch.Tensor:
    """Everything between crop (with its flip) and normalising, on the device of the pictures.

    Args:
        images_bchw: uint8; they are not written to.
        fill: what RandAugment and TrivialAugment bring in from outside a picture that they move:
            one number a channel, 0-1; middle grey where nothing is said.

    Returns:
        The same shape: uint8 (perhaps the pictures themselves), or float32 in 0-1 (never) where
        something had to be computed in floats.
    """
    images_bchw = flip(images_bchw, _number(augment.vflip), generator, dim=-2)
    fill = (0.5,) * images_bchw.shape[1] if fill is None else fill
    if augment.policy == "randaugment":
        images_bchw = randaugment(images_bchw, augment.num_ops, augment.magnitude, fill, generator)
    elif augment.policy == "trivialaugment":
        images_bchw = trivialaugment(images_bchw, fill, generator)
    if rotation := _number(augment.rotate_degrees):
        images_bchw = rotate(_in_floats(images_bchw), rotation, generator)
    images_bchw = jitter_color(
        images_bchw,
        generator,
        brightness=_number(augment.brightness),
        contrast=_number(augment.contrast),
        saturation=_number(augment.saturation),
        hue=_number(augment.hue),
    )
    if erase := _number(augment.erase):
        if images_bchw.dtype == torch.uint8:  # else new floats, which may be written to
            images_bchw = images_bchw.clone()
        images_bchw = random_erase_(images_bchw, erase, generator)
    return images_bchw


def mix_by_recipe(
    images_bchw: torch.Tensor,
    labels_b: torch.Tensor,
    num_classes: int,
    augment: AugmentRecipe,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recipe's MixUp and CutMix, after normalising; in place; see `mix_batch_`."""
    return mix_batch_(
        images_bchw,
        labels_b,
        num_classes,
        generator,
        mixup_alpha=_number(augment.mixup),
        cutmix_alpha=_number(augment.cutmix),
    )


def _in_floats(images_bchw: torch.Tensor) -> torch.Tensor:
    """uint8 or float to float32 in 0-1."""
    return images_bchw.float() / 255 if images_bchw.dtype == torch.uint8 else images_bchw


def _crop_words(
    augment: AugmentRecipe,
) -> tuple[tuple[float, float], tuple[float, float]]:
    assert not isinstance(augment.crop_scale, str), "the recipe was not settled"
    assert not isinstance(augment.crop_ratio, str), "the recipe was not settled"
    return augment.crop_scale, augment.crop_ratio


def _number(word: float | str) -> float:
    """A word of a settled recipe; `fieldmark.auto` has replaced every "auto"."""
    assert not isinstance(word, str), "the recipe was not settled"
    return word
