"""One side of benchmarks/data_engine.py, which starts this in a process of its own.

    python benchmarks/data_engine_sides.py SIDE FOLDER STARTED

Prints one line of JSON. A side imports only what it needs: that is part of its first step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from typing import Any

SIZE, BATCH, EPOCHS = 224, 32, 4
SCALE, RATIO = (0.35, 1.0), (0.75, 1.333)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CORES = os.cpu_count() or 1


def main() -> None:
    side, folder, started = sys.argv[1], sys.argv[2], float(sys.argv[3])
    if side == "training":
        print(json.dumps(train(folder)))
        return
    for module in IMPORTS[side]:
        import_module(module)
    begun = time.perf_counter()
    num, epoch = SIDES[side](folder, side)
    by_epoch, first_step = [], 0.0
    for number in range(EPOCHS):
        if number:
            begun = time.perf_counter()
        seen = 0
        for images in epoch(number):
            first_step = first_step or time.time() - started
            assert images.shape[1:] == (3, SIZE, SIZE), images.shape
            seen += len(images)
        assert seen >= 0.9 * num, (seen, num)  # some loaders drop the last, smaller batch
        by_epoch.append(seen / (time.perf_counter() - begun))
    print(json.dumps({"by_epoch": by_epoch, "first_step": first_step}))


Epoch = Callable[[int], Iterable[Any]]


def torchvision_side(folder: str, side: str) -> tuple[int, Epoch]:
    """What most training scripts have."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.RandomResizedCrop(SIZE, SCALE, RATIO),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    dataset = ImageFolder(folder, transforms.Compose(steps))
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=CORES, persistent_workers=True)
    return len(dataset), lambda number: (images for images, _ in loader)


def fieldmark_side(folder: str, side: str) -> tuple[int, Epoch]:
    """What `fieldmark train` does before and beside the steps."""
    place = "disk" if "disk" in side else "auto"
    loader = fieldmark_loader(folder, SIZE, place, look="look" in side)
    return len(loader.store), lambda number: (b.images_bchw for b in loader.epoch(number))


def fieldmark_loader(folder: str, size: int, cache: str, *, look: bool = False) -> Any:
    from fieldmark.assembly.pictures import look_for_copies
    from fieldmark.auto import Facts, settle
    from fieldmark.data.loader import TrainLoader
    from fieldmark.data.prepare import labels_of, prepare_data, ready_ahead
    from fieldmark.data.sources.scan import scan
    from fieldmark.progress import Silent
    from fieldmark.recipe import Recipe
    from fieldmark.runtime import open_runtime

    words = {
        "data.quick_check": look,
        "data.size": size,
        "data.cache": cache,
        "data.mean": MEAN,
        "data.std": STD,
        "augment.preset": "none",
        "augment.crop_scale": SCALE,
        "augment.crop_ratio": RATIO,
        "augment.hflip": 0.5,
    }
    runtime = open_runtime("cpu")
    manifest = scan(folder)
    samples = tuple(replace(sample, part="train") for sample in manifest.samples)
    manifest = replace(manifest, samples=samples)
    facts = Facts(all_grey=False, typical_side_px=375, min_size_px=32, has_norm=True, num_train=400)
    recipe = settle(Recipe().with_settings(words), facts)[0]
    with ready_ahead(manifest, recipe, runtime, Silent()) as ahead:
        look_for_copies(manifest, recipe, Silent(), ahead)
    data = prepare_data(manifest, recipe, runtime, Silent())
    labels = labels_of(data.train, manifest.class_names)
    return TrainLoader(
        data.train, labels, data.preprocess, recipe.augment, runtime, batch_size=BATCH, seed=0
    )


def fastai_side(folder: str, side: str) -> tuple[int, Epoch]:
    """Its usual way: a resized crop a picture in workers, then flips and statistics a batch."""
    from fastai.vision.all import (
        Flip,
        ImageDataLoaders,
        Normalize,
        RandomResizedCrop,
        imagenet_stats,
    )

    loaders = ImageDataLoaders.from_folder(
        folder,
        valid_pct=0.0001,
        bs=BATCH,
        num_workers=CORES,
        item_tfms=RandomResizedCrop(SIZE, min_scale=SCALE[0]),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
    )
    return len(loaders.train_ds), lambda number: (images for images, _ in loaders.train)


def ultralytics_side(folder: str, side: str) -> tuple[int, Epoch]:
    """Its classification data set, whole pictures cached in memory, and its augmentations with
    everything off that the others do not do."""
    from torch.utils.data import DataLoader
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import ClassificationDataset

    words = {"imgsz": SIZE, "cache": "ram", "scale": 1 - SCALE[0], "fliplr": 0.5}
    off = dict.fromkeys(("flipud", "erasing", "hsv_h", "hsv_s", "hsv_v"), 0.0)
    arguments = get_cfg(overrides={**words, **off, "auto_augment": None})
    dataset = ClassificationDataset(folder, arguments, augment=True, prefix="train")
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=CORES, persistent_workers=True)
    return len(dataset), lambda number: (batch["img"] for batch in loader)


def train(folder: str) -> dict[str, float]:
    """Steps of ResNet-18 at 96 px on the CPU: in all, waiting for batches, and on one batch."""
    import torch
    import torch.nn.functional as F

    from fieldmark.models.registry import create_model
    from fieldmark.runtime import open_runtime

    torch.manual_seed(0)
    loader = fieldmark_loader(folder, 96, "auto")
    model = open_runtime("cpu").place_network(create_model("resnet18", num_classes=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(batch: Any) -> None:
        loss = F.cross_entropy(model(batch.images_bchw), batch.labels_b)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    batch = next(iter(loader.epoch(0)))
    step(batch)  # the first one sets things up
    wait = total = bare = 0.0
    steps = 0
    for epoch in range(1, 4):
        batches = loader.epoch(epoch)
        mark = time.perf_counter()
        for _ in range(len(loader)):
            before = time.perf_counter()
            batch = next(batches)
            wait += time.perf_counter() - before
            step(batch)
            steps += 1
        total += time.perf_counter() - mark
        # Right after it, so that a busy machine slows down both: the same on a batch at hand.
        full = next(iter(loader.epoch(epoch)))
        mark = time.perf_counter()
        for _ in range(len(loader) - 1):
            step(full)
        step(batch)
        bare += time.perf_counter() - mark
    return {"wait": wait, "total": total, "bare": bare, "steps": steps}


FIELDMARK = (
    "fieldmark.assembly.pictures",
    "fieldmark.data.prepare",
    "fieldmark.data.loader",
    "fieldmark.data.sources.scan",
)
IMPORTS = {
    "ImageFolder + DataLoader": ("torchvision.datasets", "torchvision.transforms"),
    "fieldmark, first run": FIELDMARK,
    "fieldmark, first run, with the look for copies": FIELDMARK,
    "fieldmark, second run": FIELDMARK,
    "fieldmark, read from disk": FIELDMARK,
    "fastai": ("fastai.vision.all",),
    "ultralytics, cache=ram": ("ultralytics.data.dataset",),
}
SIDES: dict[str, Callable[[str, str], tuple[int, Epoch]]] = {
    "ImageFolder + DataLoader": torchvision_side,
    "fieldmark, first run": fieldmark_side,
    "fieldmark, first run, with the look for copies": fieldmark_side,
    "fieldmark, second run": fieldmark_side,
    "fieldmark, read from disk": fieldmark_side,
    "fastai": fastai_side,
    "ultralytics, cache=ram": ultralytics_side,
}


if __name__ == "__main__":
    main()
