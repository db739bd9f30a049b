"""Settles every word of a recipe that says "auto", in one place, each with its reason said.

No torch here: what decides is the recipe and a few facts about the pictures and the network.
`settle` is the story; what each mode takes, and what becomes of trained weights, is in `modes`.
"""

from __future__ import annotations

from fieldmark.auto.modes import LEARNING_RATES
from fieldmark.auto.settle import PRESETS, SMALL_PICTURE_PX, Facts, settle, settle_augment

__all__ = ["LEARNING_RATES", "PRESETS", "SMALL_PICTURE_PX", "Facts", "settle", "settle_augment"]
