"""What does the main job reach on real pictures, on two cores?

    python benchmarks/real_runs.py --out benchmarks/real_runs_HARDWARE_DATE.md

Trains through `fieldmark.train`, as a user would, with several seeds: ants and bees with ResNet-18
from scratch, and Fashion-MNIST (IDX, one channel) on 12,000 training pictures at 32 px. Every run
draws its own validation part and its own weights; the test part is the one each source gives.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import tempfile
from pathlib import Path
from typing import Any

import fieldmark as fm
from fieldmark.progress import console_progress
from fieldmark.runtime import describe_machine, open_runtime

FASHION_NAMES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ants and bees, ResNet-18 from scratch": (
        "hymenoptera",
        {
            "model.name": "resnet18",
            "data.size": 128,
            "training.epochs": 40,
            "training.batch_size": 16,
        },
    ),
    "Fashion-MNIST, 12,000 training pictures at 32 px, ResNet-18": (
        "fashion-mnist",
        {
            "model.name": "resnet18",
            "data.size": 32,
            "data.val_fraction": 0.05,
            "data.train_limit": 12000,
            "data.class_names": FASHION_NAMES,
            "training.epochs": 8,
            "training.batch_size": 64,
            "augment.hflip": 0.5,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="keep the run directories here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        runs = arguments.keep or Path(scratch)
        sections = [
            measure(title, arguments.shared / folder, settings, arguments.seeds, runs)
            for title, (folder, settings) in QUESTIONS.items()
        ]
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    command = f"python benchmarks/real_runs.py --shared ../shared/data --seeds {arguments.seeds}"
    head = (
        "# The main job on real pictures\n\n"
        f"Made by `{command}`.\n\nMachine: {machine}. It is shared and noisy: read the seconds as "
        "an order of magnitude.\n"
    )
    arguments.out.write_text("\n".join([head, *sections]), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def measure(title: str, source: Path, settings: dict[str, Any], seeds: int, runs: Path) -> str:
    """One question with all its seeds, as a section of the results file."""
    rows, accuracies = [], []
    for seed in range(seeds):
        out = runs / f"{source.name}-seed{seed}"
        run = fm.train(
            source, settings={**settings, "seed": seed}, out=out, progress=console_progress()
        )
        assert run.test is not None
        test = run.test.accuracy
        accuracies.append(test.value)
        seconds = sum(row.seconds for row in run.history)
        rows.append(
            f"| {seed} | {run.best.epoch} of {len(run.history)} | {run.val.accuracy.value:.3f} "
            f"(n={run.val.accuracy.n}) | {test.value:.4f} ({test.low:.4f}-{test.high:.4f}, "
            f"n={test.n}) | {run.test.macro_f1:.4f} | {seconds:.0f} | "
            f"{seconds / len(run.history):.1f} |"
        )
    spread = f"{min(accuracies):.4f}-{max(accuracies):.4f}"
    words = " ".join(f"--set {setting(k, v)}" for k, v in settings.items())
    return (
        f"## {title}\n\n`fieldmark train {source.name} {words} --seed SEED`\n\n"
        "| seed | best epoch | validation accuracy | test accuracy (95 %) | macro F1 | "
        "training, s | s an epoch |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nTest accuracy: mean {statistics.mean(accuracies):.4f}, range {spread}, "
        f"{seeds} seeds.\n"
    )


def setting(key: str, value: Any) -> str:
    """A setting as it is typed; a list of texts is written in TOML as in JSON."""
    return shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")


if __name__ == "__main__":
    main()
