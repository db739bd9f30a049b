"""In which form features are stored: what decides their numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
import torch

from fieldmark.data.pixels.cache import FEATURES
from fieldmark.data.pixels.form import Form
from fieldmark.data.views import VIEW_VERSION, view_words
from fieldmark.recipe import AugmentRecipe
from fieldmark.types import Preprocess

Kept = Literal["float32", "float16"]

# Goes up whenever the same network and picture would be kept as other numbers.
FEATURES_VERSION: Final = 1

_NUM_CLASSES: Final = "num_classes"  # of an architecture: nothing below the head depends on it


@dataclass(frozen=True)
class FeatureForm:
    """How features are made.

    Attributes:
        weights: `weights_digest` of all that runs below the boundary.
        architecture: name and options of the network, as `Network.architecture` has them.
        boundary: how far it runs: the name of the last stage below.
        pixels: how its pictures are stored.
        preprocess: what normalises them; its mean and std are measured, unlike those of `pixels`.
        augment: settled, for numbered views; None for pictures as evaluation sees them.
        inference: in which form and precision the network computes: `folded, bfloat16`.
        kept: the type of the numbers that are kept.
    """

    weights: str
    architecture: Mapping[str, Any]
    boundary: str
    pixels: Form
    preprocess: Preprocess
    augment: AugmentRecipe | None = None
    inference: str = "float32"
    kept: Kept = "float32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is kept."""
        return np.dtype(self.kept)

    @cached_property
    def name(self) -> str:
        """The same for two forms only where they give the same numbers; fit for a folder's name."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()
        return f"{FEATURES}-{self.preprocess.size}px-{digest[:16]}"

    def describe(self) -> dict[str, Any]:
        """All that decides the numbers."""
        preprocess = self.preprocess
        options = {key: word for key, word in self.architecture.items() if key != _NUM_CLASSES}
        return {
            "version": FEATURES_VERSION,
            "kind": FEATURES,
            "size": preprocess.size,
            "channels": preprocess.channels,
            "network": options.get("name", ""),
            "boundary": self.boundary,
            "weights": self.weights,
            "architecture": options,
            "inference": self.inference,
            "kept": self.kept,
            # They compute, and their results may change a little between versions.
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "timm": version("timm"),
            "pixels": self.pixels.name,
            "mean": preprocess.mean,
            "std": preprocess.std,
            "channel_order": preprocess.channel_order,
            "views": VIEW_VERSION if self.augment else None,
            "augment": view_words(self.augment) if self.augment else None,
        }


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors on any device, whatever their order.

    Of a module, `dict(module.named_parameters()) | dict(module.named_buffers())`: its state dict
    lacks the buffers that are not saved.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def size_of(num_pictures: int, num_views: int, shape: Iterable[int], kept: Kept) -> int:
    """Bytes that features of this shape take; on disk 200 more for each, which is its name."""
    return num_pictures * num_views * math.prod(shape) * np.dtype(kept).itemsize


def check_views(form: FeatureForm, views: Sequence[int]) -> None:
    """For our own mistakes: exact and augmented views are features of two forms."""
    assert len(set(views)) == len(views) > 0, views
    assert all((view >= 0) == (form.augment is not None) for view in views), views
