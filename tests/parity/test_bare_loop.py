"""`fit` against a loop written in bare PyTorch: the same losses, step by step.

The bare side shares nothing with Fieldmark but the documented seeds: torchvision's network, its
own reading and normalising of the files, torch's optimizers, schedulers and loss, its own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import functional as tvf

from fieldmark.assembly.network import build_network, settle_for
from fieldmark.assembly.pictures import make_loaders
from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.split import split
from fieldmark.data.prepare import prepare_data
from fieldmark.data.sources.scan import scan
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime, seed_everything
from fieldmark.training.loop import FitResult, fit

SEED, SIZE_PX, BATCH, EPOCHS = 3, 32, 6, 4
NUM_STEPS = 20  # 30 training pictures make 5 steps an epoch


@dataclass(frozen=True)
class Case:
    """One recipe, and what it means in torch's own words."""

    settings: dict[str, Any]
    make_optimizer: Any  # parameter groups -> optimizer
    make_scheduler: Any  # optimizer -> scheduler, stepped at every step
    decay: float
    smoothing: float = 0.0
    clip_norm: float = 0.0
    network: str = "resnet10"


CASES = {
    "sgd, Nesterov, one-cycle, smoothing, clipping": Case(
        settings={
            "optimizer.name": "sgd",
            "optimizer.lr": 0.05,
            "optimizer.nesterov": True,
            "optimizer.weight_decay": 0.05,
            "optimizer.clip_norm": 0.5,
            "schedule.name": "one_cycle",
            "training.label_smoothing": 0.1,
        },
        make_optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True),
        make_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.05, total_steps=NUM_STEPS, cycle_momentum=False
        ),
        decay=0.05,
        smoothing=0.1,
        clip_norm=0.5,
    ),
    "adamw, cosine": Case(
        settings={"optimizer.name": "adamw", "optimizer.lr": 1e-3, "schedule.name": "cosine"},
        make_optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        make_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=NUM_STEPS
        ),
        decay=0.01,
        network="resnet18",
    ),
    "adam, step": Case(
        settings={
            "optimizer.name": "adam",
            "optimizer.lr": 1e-3,
            "optimizer.betas": [0.8, 0.95],
            "optimizer.weight_decay": 1e-3,
            "schedule.name": "step",
            "schedule.gamma": 0.5,
            "schedule.step_epochs": 1,
        },
        make_optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.8, 0.95)),
        make_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 ** (step // (NUM_STEPS // EPOCHS))
        ),
        decay=1e-3,
    ),
}


def torchvision_network(name: str, num_classes: int) -> nn.Module:
    blocks = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}[name]
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, blocks, num_classes=num_classes)


def read_pixels(path: str) -> torch.Tensor:
    """A file to (3, 32, 32) float in 0-1, with Pillow and torchvision alone."""
    with Image.open(path) as picture:
        picture = tvf.resize(picture.convert("RGB"), [SIZE_PX], antialias=True)
        return tvf.to_tensor(tvf.center_crop(picture, [SIZE_PX, SIZE_PX]))


def bare_losses(case: Case, state: dict[str, torch.Tensor], manifest: Manifest) -> list[float]:
    """The losses of 20 steps without Fieldmark."""
    train = [sample for sample in manifest.samples if sample.part == "train"]
    pixels_nchw = torch.stack([read_pixels(sample.path) for sample in train])
    mean = pixels_nchw.mean((0, 2, 3)).numpy().round(4)
    std = pixels_nchw.double().std((0, 2, 3), correction=0).numpy().round(4)
    inputs_nchw = tvf.normalize(pixels_nchw, mean.tolist(), std.tolist())
    classes = sorted({sample.label for sample in manifest.samples})
    labels_n = torch.tensor([classes.index(sample.label) for sample in train])

    model = torchvision_network(case.network, len(classes))
    model.load_state_dict(state)
    # The layout is no part of the recipe, but how sums are rounded hangs on it.
    model.train().to(memory_format=torch.channels_last)
    dense = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    others = [p for p in model.parameters() if not any(p is weight for weight in dense)]
    optimizer = case.make_optimizer(
        [{"params": dense, "weight_decay": case.decay}, {"params": others, "weight_decay": 0.0}]
    )
    scheduler = case.make_scheduler(optimizer)
    criterion = nn.CrossEntropyLoss(label_smoothing=case.smoothing)

    losses = []
    for epoch in range(EPOCHS):
        # As `data.loader.batch_generator` documents: from SeedSequence((seed, epoch)).
        state_64 = np.random.SeedSequence((SEED, epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state_64 >> np.uint64(1)))
        order_n = torch.randperm(len(train), generator=generator)
        for start in range(0, len(train), BATCH):
            chosen_b = order_n[start : start + BATCH]
            images_bchw = inputs_nchw[chosen_b].contiguous(memory_format=torch.channels_last)
            loss = criterion(model(images_bchw), labels_n[chosen_b])
            optimizer.zero_grad()
            loss.backward()
            if case.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses


def fitted_losses(
    case: Case, recipe: Recipe, manifest: Manifest
) -> tuple[list[float], dict[str, torch.Tensor], FitResult]:
    """The loss of every step of `fit`, overheard; the weights it began with; its result."""
    runtime = Runtime(torch.device("cpu"))
    seed_everything(recipe.seed)
    model = build_network(recipe, None, manifest.class_names, Silent())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    data = prepare_data(manifest, recipe, runtime, Silent())
    train, val = make_loaders(data, recipe, runtime)
    losses: list[float] = []

    def overhear(module: nn.Module, args: Any, loss: torch.Tensor) -> None:
        if isinstance(module, nn.CrossEntropyLoss):
            losses.append(loss.item())

    handle = nn.modules.module.register_module_forward_hook(overhear)
    try:
        result = fit(
            runtime.place_network(model), train, val, recipe, runtime, Silent(), lambda *kept: None
        )
    finally:
        handle.remove()
    return losses, start, result


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_have_the_losses_of_a_bare_loop(
    name: str, tmp_path: Path, make_pictures: Any
) -> None:
    case = CASES[name]
    folder = make_pictures(tmp_path, {"ant": 13, "bee": 13, "wasp": 13}, size=40)
    recipe = Recipe(seed=SEED).with_settings(
        {
            "source": str(folder),
            "model.name": case.network,
            "data.size": SIZE_PX,
            "augment.preset": "none",
            "training.epochs": EPOCHS,
            "training.batch_size": BATCH,
            **case.settings,
        }
    )
    manifest = split(scan(folder), val_fraction=0.12, test_fraction=0.08, seed=SEED)
    recipe, _ = settle_for(recipe, manifest)
    ours, start, result = fitted_losses(case, recipe, manifest)
    bare = bare_losses(case, start, manifest)
    assert len(ours) == len(bare) == NUM_STEPS
    assert bare[-1] < 0.8 * bare[0], "the comparison must be of a training that learns"
    # Equal to the bit where this was written; another machine may split its sums otherwise.
    assert ours == pytest.approx(bare, rel=1e-4, abs=1e-6)
    # And what history.csv says is the mean of these.
    per_epoch = np.array(ours).reshape(EPOCHS, -1).mean(1)
    assert [row.train_loss for row in result.history] == pytest.approx(per_epoch.tolist(), rel=1e-5)
