"""One side of benchmarks/transfer_learning.py, which starts this in a process of its own.

    python benchmarks/transfer_learning_sides.py SIDE TASK

TASK is JSON: what the side's function reads of it. Prints one line of JSON last. The clock runs
from the first line of work, with everything imported, to the trained model; the test part is
looked at after that.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

SIZE, RESIZED, CLASSES = 224, 256, 2
HALF = (0.5, 0.5, 0.5)  # mean and deviation that these weights were trained with
NAME, PAD = "mobilenetv2_100", {"pad_type": "same"}
WRITE_UP_BATCH, WRITE_UP_WORKERS, WRITE_UP_LR, MOMENTUM = 4, 4, 1e-3, 0.9
OTHERS_BATCH = 32
CORES = os.cpu_count() or 1

Task = dict[str, Any]
Result = dict[str, Any]


def main() -> None:
    side, task = sys.argv[1], json.loads(sys.argv[2])
    started = time.perf_counter()
    for module in IMPORTS[side]:
        import_module(module)
    imports = time.perf_counter() - started
    print("\n" + json.dumps({"import_seconds": imports, **SIDES[side](task)}))


def pytorch_side(task: Task) -> Result:
    """The fifth write-up's fixed mode, its mistake kept: below the new layer nothing is trained,
    but batch norm takes the statistics of each batch of four, and stores them."""
    import timm
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    started = time.perf_counter()
    torch.manual_seed(task["seed"])
    last = [transforms.ToTensor(), transforms.Normalize(HALF, HALF)]
    varied = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *last]
    plain = [transforms.Resize(RESIZED), transforms.CenterCrop(SIZE), *last]
    steps = {"train": varied, "val": plain, "test": plain}
    loaders = {
        part: DataLoader(
            ImageFolder(f"{task['folder']}/{part}", transforms.Compose(steps[part])),
            WRITE_UP_BATCH,
            shuffle=part == "train",
            num_workers=WRITE_UP_WORKERS,
        )
        for part in steps
    }
    model = timm.create_model(
        NAME, pretrained=True, num_classes=CLASSES, pretrained_cfg_overlay=overlay(task), **PAD
    )
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.classifier = torch.nn.Linear(model.num_features, CLASSES)
    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=WRITE_UP_LR, momentum=MOMENTUM)

    def accuracy(part: str) -> float:
        model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in loaders[part]:
                right += int((model(images).argmax(1) == labels).sum())
        return right / len(loaders[part].dataset)

    by_epoch, seconds, best = [], [], copy.deepcopy(model.state_dict())
    for _ in range(task["epochs"]):
        mark = time.perf_counter()
        model.train()
        for images, labels in loaders["train"]:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        by_epoch.append(accuracy("val"))
        if by_epoch[-1] > max(by_epoch[:-1], default=0):
            best = copy.deepcopy(model.state_dict())
        seconds.append(time.perf_counter() - mark)
        say(f"epoch {len(by_epoch)}: val {by_epoch[-1]:.3f}, {seconds[-1]:.1f} s")
    total = time.perf_counter() - started
    model.load_state_dict(best)
    return {
        "seconds": total,
        "epoch_seconds": seconds,
        "val_accuracy": max(by_epoch),
        "test_accuracy": accuracy("test"),
        "num_train": len(loaders["train"].dataset),
        "num_test": len(loaders["test"].dataset),
    }


def fieldmark_side(task: Task) -> Result:
    """`fieldmark train` in any mode; `task["stored"]` false: the frozen part runs in every epoch,
    as it does where a network cannot be cut."""
    from fieldmark import api
    from fieldmark.assembly import trainee
    from fieldmark.errors import ModelError
    from fieldmark.progress import Silent
    from fieldmark.recipe import assemble
    from fieldmark.rundir import RunDirectory

    features = {"seconds": 0.0, "found": 0, "all": 0}
    compute, load_model = trainee.compute_features, api.load_model
    trained: list[float] = []

    def compute_timed(*arguments: Any, **words: Any) -> Any:
        mark = time.perf_counter()
        made = compute(*arguments, **words)
        features["seconds"] += time.perf_counter() - mark
        features["found"] += made.num_found
        features["all"] += len(made) * len(made.views)
        return made

    def load_after_training(path: Path) -> Any:
        trained.append(time.perf_counter())
        return load_model(path)

    def refuse(*_: Any) -> None:
        raise ModelError("the benchmark keeps no features")

    trainee.compute_features = compute_timed
    api.load_model = load_after_training
    if not task["stored"]:
        trainee.cut_network = refuse
    settings = {"model.options": PAD, "data.mean": HALF, "data.std": HALF, **task["settings"]}
    weights = "none" if task["mode"] == "scratch" else task["weights"]
    recipe = assemble(None, {"model": NAME, "weights": weights, "mode": task["mode"]}, settings)

    started = time.perf_counter()
    run = api.train(
        task["source"],
        recipe=recipe,
        epochs=task["epochs"],
        seed=task["seed"],
        out=task["out"],
        progress=Silent(),
    )
    whole = time.perf_counter() - started
    assert task["stored"] or not features["all"], features
    assert run.test is not None
    epoch_seconds = [row.seconds for row in run.history]
    pictures = json.loads(RunDirectory(run.path).metrics.read_text())["pictures"]
    return {
        "seconds": trained[0] - started,
        "whole_seconds": whole,
        "epoch_seconds": epoch_seconds,
        "features": features,
        "losses": [[row.train_loss, row.val_loss] for row in run.history],
        "views": run.recipe.transfer.views,
        "val_accuracy": run.best.val_accuracy,
        "test_accuracy": run.test.accuracy.value,
        "num_train": pictures["train"],
        "num_test": run.test.accuracy.n,
    }


def fastai_side(task: Task) -> Result:
    """`vision_learner` as it comes: its own head, its batch norms trained, one cycle."""
    from fastai.vision.all import (
        Flip,
        ImageDataLoaders,
        RandomResizedCrop,
        accuracy,
        get_image_files,
        set_seed,
        vision_learner,
    )

    started = time.perf_counter()
    set_seed(task["seed"])
    folder = Path(task["folder"])
    loaders = ImageDataLoaders.from_folder(
        folder,
        train="train",
        valid="val",
        bs=OTHERS_BATCH,
        num_workers=CORES,
        item_tfms=RandomResizedCrop(SIZE, min_scale=0.35),
        batch_tfms=[Flip()],
    )
    words = {"metrics": accuracy, "pretrained_cfg_overlay": overlay(task), **PAD}
    learner = vision_learner(loaders, NAME, **words)
    with learner.no_bar():
        learner.fit_one_cycle(task["epochs"])
    total = time.perf_counter() - started
    pictures = get_image_files(folder / "test")
    tested = learner.validate(dl=loaders.test_dl(pictures, with_labels=True))
    return {
        "seconds": total,
        "epoch_seconds": [total / task["epochs"]],
        "val_accuracy": float(learner.recorder.values[-1][-1]),
        "test_accuracy": float(tested[1]),
        "num_train": len(loaders.train_ds),
        "num_test": len(pictures),
    }


def ultralytics_side(task: Task) -> Result:
    """The same architecture from torchvision under its own head, all but the head frozen. It can
    be given no such weights as ours: the time of an epoch alone means something."""
    from ultralytics import YOLO

    folder = Path(task["folder"])
    plan = folder.with_name(f"{folder.name}-cls.yaml")
    plan.write_text(
        f"nc: {CLASSES}\n"
        "backbone:\n  - [-1, 1, TorchVision, [1280, mobilenet_v2, null, True, 1]]\n"
        "head:\n  - [-1, 1, Classify, [nc]]\n"
    )
    seconds: list[float] = []
    marks: list[float] = []
    started = time.perf_counter()
    model = YOLO(str(plan), task="classify")
    model.add_callback("on_train_epoch_start", lambda _: marks.append(time.perf_counter()))
    model.add_callback(
        "on_fit_epoch_end", lambda _: seconds.append(time.perf_counter() - marks[-1])
    )
    model.train(
        data=str(folder),
        epochs=task["epochs"],
        imgsz=SIZE,
        batch=OTHERS_BATCH,
        workers=CORES,
        device="cpu",
        freeze=1,
        seed=task["seed"],
        plots=False,
        verbose=False,
        project=task["out"],
    )
    total = time.perf_counter() - started
    return {"seconds": total, "epoch_seconds": seconds[: task["epochs"]]}


def overlay(task: Task) -> dict[str, Any]:
    """What timm is told of the weights' file."""
    return {"file": task["weights"], "mean": HALF, "std": HALF, "interpolation": "bilinear"}


def say(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


FIELDMARK = ("timm", "torchvision", "fieldmark.api", "fieldmark.assembly.trainee")
IMPORTS = {
    "pytorch": ("timm", "torchvision.datasets", "torchvision.transforms"),
    "fieldmark": FIELDMARK,
    "fastai": ("timm", "fastai.vision.all"),
    "ultralytics": ("ultralytics", "torchvision"),
}
SIDES: dict[str, Callable[[Task], Result]] = {
    "pytorch": pytorch_side,
    "fieldmark": fieldmark_side,
    "fastai": fastai_side,
    "ultralytics": ultralytics_side,
}


if __name__ == "__main__":
    main()
