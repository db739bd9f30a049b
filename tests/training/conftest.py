"""A network of a few hundred weights, and loaders over pictures made in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fieldmark.auto import settle_augment
from fieldmark.data.loader import EvalLoader, TrainLoader
from fieldmark.data.pixels.form import Form
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime
from fieldmark.training.history import EpochRow
from fieldmark.training.loop import FitResult, fit
from fieldmark.types import Preprocess, Sample
from support.stores import store_of

SIZE_PX = 8
CPU = Runtime(torch.device("cpu"))


class TinyNetwork(nn.Module):
    """Keeps `fieldmark.models.contract.Network`; two convolutions, with norms or without."""

    name = "tiny"
    stages = ("stem", "body", "head")
    first_convs = ("stem.0",)
    classifiers = ("head.2",)
    min_size_px = SIZE_PX
    in_channels = 3

    def __init__(self, num_classes: int = 3, *, norm: bool = True) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.architecture: dict[str, Any] = {"name": "tiny"}
        self.stem = self._stage(3, norm)
        self.body = self._stage(6, norm)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))

    @staticmethod
    def _stage(channels: int, norm: bool) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(channels, 6, 3, stride=2, padding=1)]
        return nn.Sequential(*layers, *([nn.BatchNorm2d(6)] if norm else []), nn.ReLU())

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images_bchw))

    def forward_features(self, images_bchw: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(self.stem(images_bchw))
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        logits_bk: torch.Tensor = self.head(features)
        return logits_bk

    def stage_modules(self) -> dict[str, list[nn.Module]]:
        return {"stem": [self.stem], "body": [self.body], "head": list(self.head)}

    def reset_classifier(self, num_classes: int) -> None:
        self.head[-1] = nn.Linear(6, num_classes)
        self.num_classes = num_classes


def tiny_network(num_classes: int = 3, *, norm: bool = True, seed: int = 0) -> TinyNetwork:
    torch.manual_seed(seed)
    return TinyNetwork(num_classes, norm=norm)


def tiny_recipe(**settings: Any) -> Recipe:
    """A settled recipe, three epochs of plain SGD; section and field joined by `__`."""
    plain = {
        "optimizer.name": "sgd",
        "optimizer.lr": 0.05,
        "optimizer.weight_decay": 0.01,
        "schedule.name": "constant",
        "training.epochs": 3,
        "training.batch_size": 8,
        "augment.preset": "none",
    }
    given = {name.replace("__", "."): value for name, value in settings.items()}
    recipe = Recipe().with_settings({**plain, **given})
    augment = settle_augment(recipe.augment)
    words = {f"augment.{k}": v for k, v in vars(augment).items()}
    return recipe.with_settings(words)


def tiny_loaders(
    recipe: Recipe,
    *,
    num_train: int = 24,
    num_val: int = 10,
    num_classes: int = 3,
    noise: float = 60.0,
    rare: int = 0,
) -> tuple[TrainLoader, EvalLoader]:
    """Pictures whose class is their colour beneath much noise; `rare` pictures of the last class,
    where that is not 0."""
    preprocess = Preprocess(SIZE_PX, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), crop_fraction=1.0)
    rng = np.random.default_rng(5)
    colours = rng.integers(60, 196, (num_classes, 3))
    stores, labels = [], []
    for num in (num_train, num_val):
        label_n = np.arange(num) % num_classes
        if rare:
            label_n = np.minimum(np.arange(num) % (num_classes - 1), num_classes - 2)
            label_n[:rare] = num_classes - 1
        pixels = colours[label_n][:, None, None] + rng.normal(0, noise, (num, SIZE_PX, SIZE_PX, 3))
        pictures = tuple(pixels.clip(0, 255).astype(np.uint8))
        samples = tuple(Sample(f"{i}", str(label)) for i, label in enumerate(label_n))
        stores.append(store_of(samples, Form("exact", preprocess), pictures))
        labels.append(label_n.tolist())
    batch_size = recipe.training.batch_size
    train = TrainLoader(
        stores[0],
        labels[0],
        preprocess,
        recipe.augment,
        CPU,
        batch_size=batch_size,
        seed=recipe.seed,
        sampling=recipe.training.sampling,
    )
    return train, EvalLoader(stores[1], labels[1], preprocess, CPU, batch_size=batch_size)


@pytest.fixture(scope="session")
def make_network() -> Callable[..., TinyNetwork]:
    return tiny_network


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    return tiny_recipe


@pytest.fixture(scope="session")
def make_tiny_loaders() -> Callable[..., tuple[TrainLoader, EvalLoader]]:
    return tiny_loaders


@dataclass
class Kept:
    """A `keep` that remembers; `then` is called after each epoch."""

    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    is_best: list[bool] = field(default_factory=list)
    rows: list[EpochRow] = field(default_factory=list)
    then: Callable[[EpochRow], None] = lambda row: None

    def __call__(self, model: nn.Module, row: EpochRow, is_best: bool) -> None:
        self.weights.append(copy.deepcopy(model.state_dict()))
        self.is_best.append(is_best)
        self.rows.append(row)
        self.then(row)


RunFit = Callable[..., tuple[FitResult, Kept, nn.Module]]


@pytest.fixture(scope="session")
def run_fit() -> RunFit:
    """`run_fit(network=, data=, kept=, section__field=...)` -> result, what was kept, model."""

    def run(
        *,
        network: nn.Module | None = None,
        data: dict[str, Any] | None = None,
        kept: Kept | None = None,
        then: Callable[[EpochRow], None] = lambda row: None,
        **settings: Any,
    ) -> tuple[FitResult, Kept, nn.Module]:
        recipe = tiny_recipe(**settings)
        model = tiny_network() if network is None else network
        train, val = tiny_loaders(recipe, **(data or {}))
        kept = kept or Kept()
        kept.then = then
        result = fit(model, train, val, recipe, CPU, Silent(), kept)
        return result, kept, model

    return run


@pytest.fixture
def kept() -> Kept:
    """To hand to `run_fit` where it is needed although `fit` raises."""
    return Kept()
