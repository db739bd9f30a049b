"""How fast do pictures reach the training step, beside the usual loaders, and in how much memory?

    python benchmarks/data_engine.py --photos ../shared/data/hymenoptera \\
        --out benchmarks/data_engine_HARDWARE_DATE.md [--others OTHER/bin/python]

Every measurement is a process of its own (benchmarks/data_engine_sides.py), the sides alternating:
random resized crops of 224 px, left-right flips, normalisation; batches of 32, one worker or
thread a core. OTHER is an environment that has fastai and ultralytics.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from fieldmark.runtime import describe_machine, open_runtime

SIDES = Path(__file__).with_name("data_engine_sides.py")
FIRST_LOOK = "fieldmark, first run, with the look for copies"
OURS = ("fieldmark, first run", FIRST_LOOK, "fieldmark, second run", "fieldmark, read from disk")
TORCHVISION = "ImageFolder + DataLoader"
OTHERS = ("fastai", "ultralytics, cache=ram")
NUM_LARGE, LARGE_PX = 64, (4000, 3000)  # 12 megapixels


@dataclass
class Measured:
    """One process: pictures a second by epoch, seconds to the first step, peak memory."""

    by_epoch: list[float]
    first_step: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="has train/ and val/")
    parser.add_argument("--others", type=Path, help="Python of an environment with the others")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        small, large = gather(arguments.photos, Path(made)), make_large(Path(made))
        tables = [
            table(f"{len(list(folder.glob('*/*')))} {what}", folder, arguments)
            for what, folder in (
                ("photos of mostly 500 x 375 px (ants and bees)", small),
                (f"JPEGs of {LARGE_PX[0]} x {LARGE_PX[1]} px made by the benchmark", large),
            )
        ]
        waits = [wait_share(small, arguments) for _ in range(arguments.repeats)]
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    command = " ".join(["python", "benchmarks/data_engine.py", *sys.argv[1:]])
    text = (
        "# Pictures to the training step\n\n"
        f"Made by `{command}`: medians of {arguments.repeats} processes a side, the sides "
        f"alternating.\n\nMachine: {machine}. Shared and noisy: read the ratios.\n\n"
        "Epoch 1 counts everything from the first look at the folder: scanning, starting workers, "
        "decoding. *First step* is from the start of the process, imports included, to the first "
        "batch. The look for copies is what `fieldmark train` does "
        "before it draws parts, once for each picture, and no other side does. Peak memory is the "
        "proportional set size of the process and its workers, which counts shared pages once, in "
        "a run before those that are timed.\n\n" + "\n".join(tables) + "\n" + wait_text(waits)
    )
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


def gather(photos: Path, made: Path) -> Path:
    """All photos in one folder a class, copied: both sides read ordinary files."""
    for label in ("ants", "bees"):
        (made / "small" / label).mkdir(parents=True)
        for part in ("train", "val"):
            for path in (photos / part / label).glob("*.jp*g"):
                shutil.copy(path, made / "small" / label / f"{part}_{path.name}")
    return made / "small"


def make_large(made: Path) -> Path:
    """Photos as a telephone makes them: enlarged, with the fine noise of a sensor, quality 92."""
    rng = np.random.default_rng(0)
    sources = sorted((made / "small").glob("*/*"))[:NUM_LARGE]
    for path in sources:
        folder = made / "large" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            enlarged = picture.convert("RGB").resize(LARGE_PX, Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (LARGE_PX[1], LARGE_PX[0], 1))
        noisy = (np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / path.name, quality=92)
    if len({path.parent for path in sources}) == 1:  # all of one class: any two will do
        (made / "large" / "bees").mkdir()
        for path in sorted((made / "large" / "ants").iterdir())[::2]:
            path.rename(made / "large" / "bees" / path.name)
    return made / "large"


def table(title: str, folder: Path, arguments: argparse.Namespace) -> str:
    """All sides on one folder."""
    sides = [TORCHVISION, *OURS, *(OTHERS if arguments.others else ())]
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    for number in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory() as cache:
            for side in sides:
                python = arguments.others if side in OTHERS else Path(sys.executable)
                own = f"{cache}/looked" if side == FIRST_LOOK else cache
                # Adding up the memory of a process takes time from it: the first run is for that.
                found[side].append(measure(side, folder, own, python, watched=number == 0))
    rows = [row(side, found) for side in sides]
    return (
        f"## {title}\n\n| side | epoch 1, pictures/s | ratio | epoch 2 and later, pictures/s | "
        "ratio | first step, s | peak memory, MB |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def row(side: str, found: dict[str, list[Measured]]) -> str:
    def medians(name: str) -> tuple[float, float, float, float]:
        watched, *runs = found[name]
        return (
            statistics.median(run.by_epoch[0] for run in runs),
            statistics.median(statistics.median(run.by_epoch[1:]) for run in runs),
            statistics.median(run.first_step for run in runs),
            watched.peak_mb,
        )

    first, later, step, peak = medians(side)
    base_first, base_later, _, _ = medians(TORCHVISION)
    return (
        f"| {side} | {first:.0f} | {first / base_first:.1f} | {later:.0f} | "
        f"{later / base_later:.1f} | {step:.1f} | {peak:.0f} |"
    )


def measure(side: str, folder: Path, cache: str, python: Path, *, watched: bool) -> Measured:
    """Run one side in a process, perhaps with its memory watched."""
    started = time.time()
    process = start(python, side, folder, cache, started)
    watcher = Watcher(process.pid) if watched else None
    output = process.communicate()[0]
    peak = watcher.stop() if watcher else 0
    if process.returncode:
        raise SystemExit(f"{side} failed:\n{output}")
    result = json.loads(output.splitlines()[-1])
    return Measured(result["by_epoch"], result["first_step"], peak / 1e6)


def start(
    python: Path, side: str, folder: Path, cache: str, started: float
) -> subprocess.Popen[str]:
    words = [str(python), str(SIDES), side, str(folder), str(started)]
    return subprocess.Popen(
        words,
        env=os.environ | {"FIELDMARK_CACHE": cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Watcher:
    """The largest memory a process and its children have had, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self.peak, self.pid, self.ended = 0, pid, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.1):
            try:
                process = psutil.Process(self.pid)
                family = [process, *process.children(recursive=True)]
                self.peak = max(self.peak, sum(one.memory_full_info().pss for one in family))
            except psutil.Error:
                continue

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        return self.peak


def wait_share(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """A training of ResNet-18 at 96 px: how long its steps wait for pictures."""
    with tempfile.TemporaryDirectory() as cache:
        process = start(Path(sys.executable), "training", folder, cache, time.time())
        output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"training failed:\n{output}")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def wait_text(waits: list[dict[str, float]]) -> str:
    wait = statistics.median(100 * run["wait"] / run["total"] for run in waits)
    slower = statistics.median(run["total"] / run["bare"] for run in waits)
    steps = int(waits[0]["steps"])
    return (
        "## A training on the CPU\n\n"
        f"ResNet-18 at 96 px, batches of 32, AdamW, {steps} steps over several epochs on the "
        f"photos above: the step waits for its batch {wait:.2f} % of the time. Preparing batches "
        f"beside the step costs it something on {os.cpu_count()} cores: the same steps on one "
        f"batch that is there already take 1/{slower:.2f} of the time.\n"
    )


if __name__ == "__main__":
    main()
