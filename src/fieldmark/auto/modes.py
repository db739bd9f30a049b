"""What each mode takes where nothing is said: learning rate, head, views, batch norm."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Literal

from fieldmark.errors import RecipeError
from fieldmark.ranges import STORED
from fieldmark.recipe import AugmentRecipe, Recipe, TransferRecipe

# Peak learning rates by mode and by whether the network has norms. Adam: 1e-3 is its paper's own
# (Kingma & Ba 2015, alg. 1); 2e-4 without norms is the AlexNet write-up's; 1e-4 for fine-tuning is
# what the reference figures of ants and bees found to work, where 1e-3 tore the weights up. SGD:
# 0.01 is AlexNet's and VGG's (Krizhevsky et al. 2012, sec. 5; Simonyan & Zisserman 2015, sec. 3.1);
# norms bear more, He et al. (2016) 0.1 for batches eight times as large; fine-tuning stays below
# the 0.01 that those reference figures found too high. A head alone on features that stand still
# is a convex problem and takes what training from scratch takes, with SGD as without norms.
LEARNING_RATES: Final[dict[tuple[str, str], float]] = {
    ("adam", "scratch"): 1e-3,
    ("adam", "scratch, no norms"): 2e-4,
    ("adam", "finetune"): 1e-4,
    ("adam", "frozen"): 1e-3,
    ("sgd", "scratch"): 0.05,
    ("sgd", "scratch, no norms"): 0.01,
    ("sgd", "finetune"): 0.005,
    ("sgd", "frozen"): 0.01,
}

FROZEN_RATES: Final = {lr for (_, mode), lr in LEARNING_RATES.items() if mode == "frozen"}

# Views are made until there are so many features, at most so many of one picture. A picture's own
# views are much alike, so the first few bring most (docs/transfer.md has the measurement); and so
# many features are a forward pass of half a minute on a small CPU.
ENOUGH_FEATURES: Final = 8000
MOST_VIEWS: Final = 4

# Below so many pictures a batch, batch norm of a trained network keeps its stored statistics: the
# error of a ResNet-50 that trains on a batch's own is the same with 32 and 16 pictures, and rises
# from 8 on (Wu & He 2018, "Group Normalization", tab. 2).
FEW_A_BATCH: Final = 16


# Adam moves a weight by at most the learning rate a step (Kingma & Ba 2015, sec. 2.1), so a head
# of one layer that has few steps takes longer ones to get as far. In benchmarks/frozen_heads_*.md
# validation chooses 0.01 where there are 140 steps and 0.001 where there are 1,260: the same length
# of all steps. Five times the usual one is the most, as those logits grow by whole units a step.
LR_OF_ALL_STEPS: Final = 1.3
LONGEST_STEPS: Final = 5


def usual_lr(recipe: Recipe, *, has_norm: bool, num_train: int, has_linear_head: bool) -> float:
    """Peak learning rate for the recipe's mode and optimizer.

    Args:
        has_norm: the network has normalisation layers.
        num_train: training pictures.
        has_linear_head: its head is one linear layer.
    """
    optimizer = "sgd" if recipe.optimizer.name == "sgd" else "adam"
    # What trains in mode partial are trained convolutions, so they move as in fine-tuning.
    situation: str = "finetune" if recipe.mode == "partial" else recipe.mode
    if situation == "scratch" and not has_norm:
        situation = "scratch, no norms"
    lr = LEARNING_RATES[optimizer, situation]
    if (optimizer, situation) == ("adam", "frozen") and has_linear_head:
        num_steps = recipe.training.epochs * math.ceil(num_train / recipe.training.batch_size)
        lr *= min(max(1.0, LR_OF_ALL_STEPS / lr / num_steps), LONGEST_STEPS)
    return round(lr, 5)


def mixed_as_stored(augment: AugmentRecipe, mode: str) -> tuple[AugmentRecipe, list[str]]:
    """The words of mixing at 0 where views are stored, and why, if they were not 0."""
    if mode not in STORED or not (augment.mixup or augment.cutmix):
        return augment, []
    said = f"mixup 0, cutmix 0: stored views (mode {mode}) cannot be mixed as pictures"
    return replace(augment, mixup=0.0, cutmix=0.0), [said]


def settle_transfer(
    recipe: Recipe, num_train: int, *, augments: bool, has_batch_norm: bool
) -> tuple[TransferRecipe, list[str]]:
    """The section `transfer` without "auto", and a sentence for each choice that matters.

    Args:
        recipe: its mode is settled.
        num_train: training pictures.
        augments: the settled augmentation changes pictures at all.
        has_batch_norm: the network has batch norm, whose statistics there is a choice about.

    Raises:
        RecipeError: views are asked for, and nothing would make them differ.
    """
    transfer, mode = recipe.transfer, recipe.mode
    said: list[str] = []

    head = transfer.head
    if head == "auto":
        # The head the network was published with fits its features; another one has to be asked
        # for. So it says nothing that is new.
        head = "own"

    views = transfer.views
    if views == "auto":
        views, reason = _views(mode, num_train, augments=augments)
        if reason:
            said.append(f"views {views}: {reason}")
    elif views and not augments:
        raise RecipeError(
            "without augmentation all views of a picture are alike",
            given=f"transfer.views = {views}, augmentation {recipe.augment.preset}",
            valid="0 views, or an augmentation",
            fix="leave --views out, or take --augment standard",
        )

    elif views == 0 and augments and mode in STORED:
        raise RecipeError(
            "with 0 views pictures are stored as evaluation sees them, and nothing may change them",
            given="transfer.views = 0, and words of augment that change pictures",
            valid="0 views and no such words, or 1 view and more",
            fix="leave --views out, or those words",
        )

    head_first = transfer.head_first
    if head_first == "auto":
        # Through a head drawn at random the first gradients distort good features, most of all
        # for pictures unlike those trained on (Kumar et al. 2022, "Fine-Tuning can Distort
        # Pretrained Features and Underperform Out-of-Distribution").
        head_first = mode in ("finetune", "partial") and recipe.model.weights != "none"
        if head_first:
            said.append("head first: a head drawn at random would spoil the trained weights")

    norms = transfer.norms
    if norms == "auto":
        norms, reason = _norms(recipe) if has_batch_norm else ("train", "")
        if reason:
            said.append(f"norms {norms}: {reason}")

    settled = replace(transfer, head=head, views=views, head_first=head_first, norms=norms)
    return settled, said


def _views(mode: str, num_train: int, *, augments: bool) -> tuple[int, str]:
    """Stored views a picture, and why; by the number of pictures alone, whatever the machine."""
    if mode not in STORED:
        return 0, ""
    if not augments:
        return 0, "without augmentation a picture always looks the same"
    views = min(MOST_VIEWS, max(1, round(ENOUGH_FEATURES / num_train)))
    return views, f"{num_train:,} pictures make {views * num_train:,} features"


def _norms(recipe: Recipe) -> tuple[Literal["train", "eval"], str]:
    """Which statistics batch norm uses where it trains, and why."""
    if recipe.mode not in ("finetune", "partial"):
        return "train", ""
    batch_size = recipe.training.batch_size
    if batch_size < FEW_A_BATCH:
        return "eval", f"statistics of batches of {batch_size} would be too uncertain"
    return "train", f"batches of {batch_size} give good statistics"
