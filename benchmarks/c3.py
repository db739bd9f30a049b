"""Can ResNet's residual block be merged into C3, and what does it bring?

    python benchmarks/c3.py --runs RUNS --out benchmarks/c3_HARDWARE_DATE.md

What the networks cost: parameters, FLOPs, and seconds of a forward pass and of a training step on
this machine, ResNet, C3ResNet and timm's cspresnet50 taking turns. What they learn: ResNet and
C3ResNet trained with `fieldmark.train`, same recipe, same pictures, same seeds, compared on the
same test pictures. RUNS keeps the trainings: those that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from torch import nn

import fieldmark as fm
from fieldmark.models.registry import create_model
from fieldmark.models.summary import summarize
from fieldmark.progress import console_progress
from fieldmark.runtime import describe_machine, open_runtime

PAIRS: Final = (("resnet18", "c3resnet18"), ("resnet50", "c3resnet50"))
DATA: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ants and bees, 128 px, 30 epochs": (
        "hymenoptera",
        {"data.size": 128, "training.epochs": 30, "training.batch_size": 16},
    ),
    "Fashion-MNIST, 4,000 training pictures, 32 px, 6 epochs": (
        "fashion-mnist",
        {
            "data.size": 32,
            "data.val_fraction": 0.02,
            "data.train_limit": 4000,
            "training.epochs": 6,
            "training.batch_size": 32,
            "augment.hflip": 0.5,
        },
    ),
}
SPEED_SIZE_PX, SPEED_BATCH, SPEED_REPEATS = 224, 8, 7
NUM_RESAMPLES: Final = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--only", help="one of the sources' folders, to train them side by side")
    parser.add_argument("--out", type=Path, help="the results file; without it, train only")
    arguments = parser.parse_args()

    for seed in range(arguments.seeds):  # seed by seed: an early look shows every pair
        for folder, settings in DATA.values():
            for name in (name for pair in PAIRS for name in pair):
                if arguments.only not in (None, folder):
                    continue
                train(arguments.shared / folder, name, seed, settings, arguments.runs)
    if arguments.out is None:
        return
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    sections = [
        "# ResNet's residual blocks in C3\n\nMade by `python benchmarks/c3.py --runs RUNS --out "
        f"{arguments.out}`, {arguments.seeds} seeds.\n\nMachine: {machine}. It is shared and "
        "noisy: read ratios, not seconds.\n",
        costs(),
        *(
            learning(title, arguments.runs, folder, settings, arguments.seeds)
            for title, (folder, settings) in DATA.items()
        ),
    ]
    arguments.out.write_text("\n".join(sections), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def run_path(runs: Path, folder: str, name: str, seed: int) -> Path:
    return runs / f"{folder}-{name}-seed{seed}"


def train(source: Path, name: str, seed: int, settings: dict[str, Any], runs: Path) -> None:
    out = run_path(runs, source.name, name, seed)
    if (out / "metrics.json").is_file():
        return
    words = {**settings, "model.name": name, "seed": seed}
    fm.train(source, settings=words, out=out, progress=console_progress())


def costs() -> str:
    """What a picture costs in each network; seconds as medians of runs that take turns."""
    models: dict[str, nn.Module] = {n: create_model(n) for pair in PAIRS for n in pair}
    models["cspresnet50 (timm)"] = timm.create_model("cspresnet50")
    seconds: dict[str, dict[str, list[float]]] = {n: {"forward": [], "step": []} for n in models}
    generator = torch.Generator().manual_seed(0)
    shape = (SPEED_BATCH, 3, SPEED_SIZE_PX, SPEED_SIZE_PX)
    images_bchw = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    labels_b = torch.randint(0, 1000, (SPEED_BATCH,), generator=generator)
    for model in models.values():
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(SPEED_REPEATS + 1):
        for name, model in models.items():
            seconds[name]["forward"].append(time_forward(model, images_bchw))
            seconds[name]["step"].append(time_step(model, images_bchw, labels_b))
    rows = []
    for name, model in models.items():
        summary = summarize(model, channels=3, size_px=SPEED_SIZE_PX)
        cells = [name, f"{summary.num_parameters:,}", f"{summary.flops / 1e9:.2f}"]
        for what in ("forward", "step"):  # the first of each warmed up
            own = statistics.median(seconds[name][what][1:])
            reference = statistics.median(seconds["resnet50"][what][1:])
            cells.append(f"{SPEED_BATCH / own:.1f} ({reference / own:.2f})")
        rows.append("| " + " | ".join(cells) + " |")
    return (
        f"## Cost at {SPEED_SIZE_PX} px, 1000 classes\n\nPictures a second, in brackets as a "
        f"multiple of resnet50's; batches of {SPEED_BATCH}, float32, channels last, median of "
        f"{SPEED_REPEATS} rounds in which the networks take turns. FLOPs count two for each "
        "multiply-add.\n\n| network | parameters | GFLOPs | forward, pictures/s | training step, "
        "pictures/s |\n|---|---:|---:|---:|---:|\n" + "\n".join(rows) + "\n"
    )


def time_forward(model: nn.Module, images_bchw: torch.Tensor) -> float:
    model.eval()
    started = time.perf_counter()
    with torch.inference_mode():
        model(images_bchw)
    return time.perf_counter() - started


def time_step(model: nn.Module, images_bchw: torch.Tensor, labels_b: torch.Tensor) -> float:
    """Forward, backward and plain SGD: what differs between networks, and nothing else."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    started = time.perf_counter()
    nn.functional.cross_entropy(model(images_bchw), labels_b).backward()
    optimizer.step()
    return time.perf_counter() - started


def learning(title: str, runs: Path, folder: str, settings: dict[str, Any], seeds: int) -> str:
    """Test accuracy by network and seed, and the paired difference C3 - ResNet."""
    rows, differences = [], []
    for pair in PAIRS:
        correct = {name: [] for name in pair}  # type: dict[str, list[np.ndarray]]
        for name in pair:
            paths = [run_path(runs, folder, name, seed) for seed in range(seeds)]
            cells = []
            for path in paths:
                metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
                accuracy = metrics["test"]["accuracy"]
                cells.append(
                    f"{accuracy['value']:.3f} ({accuracy['low']:.3f}-{accuracy['high']:.3f})"
                )
                correct[name].append(read_correct(path / "predictions.csv"))
            mean = np.mean([c.mean() for c in correct[name]])
            rows.append(f"| {name} | " + " | ".join(cells) + f" | {mean:.3f} |")
        old, new = (np.stack(correct[name]) for name in pair)  # (seeds, n)
        low, high = difference_interval(new, old)
        differences.append(
            f"- {pair[1]} - {pair[0]}: {(new - old).mean():+.3f} (95 % {low:+.3f} to {high:+.3f}); "
            "by seed " + ", ".join(f"{d:+.3f}" for d in (new - old).mean(axis=1))
        )
    n = old.shape[1]
    heads = " | ".join(f"seed {seed}" for seed in range(seeds))
    words = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return (
        f"## {title}\n\n`fieldmark train {folder} --model NAME {words} --seed SEED`, from random "
        f"weights; test accuracy with its 95 % interval (Wilson), n={n}.\n\n| network | {heads} | "
        "mean |\n|---|" + "---|" * seeds + "---:|\n" + "\n".join(rows)
        + "\n\nPaired differences on the same pictures, mean over the seeds; the interval is a "
        f"bootstrap over pictures and seeds ({NUM_RESAMPLES:,} resamples):\n\n"
        + "\n".join(differences) + "\n"
    )  # fmt: skip


def read_correct(predictions: Path) -> np.ndarray:
    """1 or 0 a test picture, in the order of their paths."""
    with predictions.open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["path"])
    return np.array([row["correct"] == "true" for row in rows], dtype=float)


def difference_interval(new_sn: np.ndarray, old_sn: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean difference, drawing seeds and pictures anew."""
    generator = np.random.default_rng(0)
    difference_sn = new_sn - old_sn
    num_seeds, n = difference_sn.shape
    means = []
    for _ in range(NUM_RESAMPLES):
        counts_n = np.bincount(generator.integers(n, size=n), minlength=n)
        seeds = generator.integers(num_seeds, size=num_seeds)
        means.append(float(difference_sn[seeds].mean(axis=0) @ counts_n / n))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
