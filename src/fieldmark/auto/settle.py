"""From an open recipe to a settled one, word by word."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from fieldmark.auto.modes import FROZEN_RATES, mixed_as_stored, settle_transfer, usual_lr
from fieldmark.errors import RecipeError
from fieldmark.ranges import STORED
from fieldmark.recipe import AugmentRecipe, Recipe, mode_of

SMALL_PICTURE_PX: Final = 64

_NOTHING: Final[dict[str, Any]] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "hflip": 0.0,
    "vflip": 0.0,
    "rotate_degrees": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "policy": "none",
    "erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}

# What each preset says for the words left at "auto". A crop_scale of (1, 1) means no random crop.
Preset = Literal["none", "light", "standard", "strong"]
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "none": _NOTHING,
    # For digits, letters and other small grey pictures, where a mirror image is another sign.
    "light": {
        **_NOTHING,
        "crop_scale": (0.8, 1.0),
        "crop_ratio": (0.9, 1.11),
        "rotate_degrees": 8.0,
        "brightness": 0.1,
        "contrast": 0.1,
    },
    # For photos. No rotation: at 224 px it costs a CPU as much as all the rest together.
    "standard": {
        **_NOTHING,
        "crop_scale": (0.35, 1.0),
        "crop_ratio": (0.75, 1.333),
        "hflip": 0.5,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.02,
    },
    # For long trainings from random weights. What torchvision's newer weights were trained with
    # (Vryniotis 2021), with crops less small: TrivialAugment already changes colours and shapes.
    "strong": {
        **_NOTHING,
        "crop_scale": (0.25, 1.0),
        "crop_ratio": (0.75, 1.333),
        "hflip": 0.5,
        "policy": "trivialaugment",
        "erase": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
    },
}

# Epochs from random weights from which "strong" is chosen: pictures seen so often are learnt by
# heart, and the fewer there are the sooner. Of 244 photos, measured: no gain in 20 epochs, a clear
# one in 60 (docs/augmentation.md). Of many, from papers: recipes with mixing begin at 100 epochs
# (Wightman et al. 2021, A3), and what helps on little data harms on much of it unless the training
# is longer, too (Steiner et al. 2021, sec. 4.4).
LONG_TRAINING: Final = {"few": 50, "many": 100}
FEW_PICTURES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choices rest on.

    Attributes:
        all_grey: every picture is grey.
        typical_side_px: the median short side of the pictures.
        min_size_px: the smallest input the network admits.
        has_norm: the network has normalisation layers.
        num_train: training pictures.
        only_size_px: the one input size that the network is built for, where there is only one.
        has_batch_norm: some of its normalisation layers are batch norm.
        has_linear_head: its head is one linear layer.
    """

    all_grey: bool
    typical_side_px: int
    min_size_px: int
    has_norm: bool
    num_train: int
    only_size_px: int | None = None
    has_batch_norm: bool = True
    has_linear_head: bool = True


# AdamW's decay is decoupled (Loshchilov & Hutter 2019; 0.01 is torch's own default). Adam's and
# SGD's is added to the gradient: 5e-4 is AlexNet's and VGG's, and Adam without norms learns
# nothing under 0.01, so it gets none, as in the write-ups.
WEIGHT_DECAYS: Final[dict[str, float]] = {"adamw": 0.01, "adam": 0.0, "sgd": 5e-4}


def settle(recipe: Recipe, facts: Facts) -> tuple[Recipe, list[str]]:
    """The recipe without "auto", and a sentence for each choice that people may want to change.

    Left open are mean and std, which are measured, and device, precision and cache, which depend
    on the machine.

    Raises:
        RecipeError: a given size is below what the network admits, or views are asked for that
            would all be alike.
    """
    said: list[str] = []

    if recipe.data.size == "auto":
        size = facts.only_size_px or _input_size(facts)
        said.append(
            f"size {size} px: what the network is built for"
            if facts.only_size_px
            else f"size {size} px: pictures are typically {facts.typical_side_px} px"
        )
    else:
        size = recipe.data.size
    if size < facts.min_size_px and facts.only_size_px is None:  # else it can be built anew
        raise RecipeError(
            f"{recipe.model.name} does not admit pictures that small",
            given=f"size {size} px",
            valid=f"{facts.min_size_px} px or more",
            fix=f"use --size {facts.min_size_px} or more, or another --model",
        )

    channels = recipe.data.channels
    if channels == "auto":
        channels = 1 if facts.all_grey else 3
        said.append(f"{channels} channel{'s' * (channels > 1)}: " + _grey(facts.all_grey))

    fraction = recipe.data.crop_fraction
    if fraction == "auto":
        # The border that a centre crop cuts off matters where pictures are a few pixels wide.
        fraction = 1.0 if size <= SMALL_PICTURE_PX else 0.875
        if recipe.data.resize != "squash":
            said.append(f"crop_fraction {fraction:g}: usual at {size} px")

    if recipe.mode == "auto":
        recipe = replace(recipe, mode=mode_of(recipe))
        named = "no weights are named" if recipe.model.weights == "none" else "weights are named"
        said.append(f"mode {recipe.mode}: {named}")

    lr = recipe.optimizer.lr
    if lr == "auto":
        lr = usual_lr(
            recipe,
            has_norm=facts.has_norm,
            num_train=facts.num_train,
            has_linear_head=facts.has_linear_head,
        )
        is_longer = recipe.mode == "frozen" and lr not in FROZEN_RATES
        few = ", in so few steps" if is_longer else ""
        said.append(f"learning rate {lr:g}: usual for {recipe.optimizer.name}, {recipe.mode}{few}")

    augment = recipe.augment
    if recipe.transfer.views == 0 and recipe.mode in STORED and augment.preset != "none":
        if augment.preset != "auto":
            said.append("augmentation none: 0 views are pictures as evaluation sees them")
        augment = replace(augment, preset="none")
    if augment.preset == "auto":
        small_grey = channels == 1 and size <= SMALL_PICTURE_PX
        preset, reason = _preset(recipe, facts, small_grey=small_grey)
        augment = replace(augment, preset=preset)
        said.append(f"augmentation {preset}: {reason}")
    augment, mixing = mixed_as_stored(settle_augment(augment), recipe.mode)
    said += mixing

    augments = any(getattr(augment, word) != value for word, value in _NOTHING.items())
    transfer, reasons = settle_transfer(
        recipe, facts.num_train, augments=augments, has_batch_norm=facts.has_batch_norm
    )
    said += reasons

    decay = recipe.optimizer.weight_decay
    if decay == "auto":
        decay = WEIGHT_DECAYS[recipe.optimizer.name]
        said.append(f"weight decay {decay:g}: usual for {recipe.optimizer.name}")

    settled = replace(
        recipe,
        data=replace(
            recipe.data,
            size=size,
            channels=channels,
            crop_fraction=fraction,
            resize="crop" if recipe.data.resize == "auto" else recipe.data.resize,
            interpolation="bilinear"
            if recipe.data.interpolation == "auto"
            else recipe.data.interpolation,
            channel_order="rgb"
            if recipe.data.channel_order == "auto"
            else recipe.data.channel_order,
        ),
        optimizer=replace(recipe.optimizer, lr=lr, weight_decay=decay),
        augment=augment,
        transfer=transfer,
    )
    return settled, said


def settle_augment(augment: AugmentRecipe) -> AugmentRecipe:
    """Fill the words left at "auto" from the preset, which is named."""
    preset = PRESETS[augment.preset]
    filled = {word: value for word, value in preset.items() if getattr(augment, word) == "auto"}
    return replace(augment, **filled)


def _preset(recipe: Recipe, facts: Facts, *, small_grey: bool) -> tuple[Preset, str]:
    """The preset for these pictures and this training, and why."""
    if small_grey:
        return "light", "usual for small grey pictures"
    if recipe.mode != "scratch":
        return "standard", "usual for photos and a network that is trained already"
    few = facts.num_train <= FEW_PICTURES
    long = LONG_TRAINING["few" if few else "many"]
    if recipe.training.epochs >= long:
        return "strong", (
            f"{recipe.training.epochs} epochs from random weights would learn "
            f"{facts.num_train:,} photos by heart"
        )
    return "standard", f"usual for {facts.num_train:,} photos; strong from {long} epochs on"


def _input_size(facts: Facts) -> int:
    """px: small pictures are not blown up to photo size; a multiple of 32 the network admits."""
    if facts.typical_side_px > SMALL_PICTURE_PX:
        return max(224, facts.min_size_px)
    wanted = 32 if facts.typical_side_px <= 40 else 64
    return max(wanted, math.ceil(facts.min_size_px / 32) * 32)


def _grey(all_grey: bool) -> str:
    return "every picture is grey" if all_grey else "the pictures have colour"
