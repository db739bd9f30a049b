"""Transfer learning with features computed once, beside the fifth write-up and other tools.

    python benchmarks/transfer_learning.py --photos ../shared/data/hymenoptera \\
        --weights ../shared/data/weights/mobilenetv2_100_imagenet.safetensors \\
        --out benchmarks/transfer_learning_HARDWARE_DATE.md [--others OTHER/bin/python]

Every measurement is a process of its own (benchmarks/transfer_learning_sides.py), the sides
following each other seed by seed, on the parts that Fieldmark draws with that seed. OTHER is an
environment that has fastai, timm and ultralytics. The tables are written anew after each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fieldmark.assembly.modes import middle_stage
from fieldmark.assembly.pictures import draw_parts, find_samples, look_for_copies
from fieldmark.data.manifest import read_samples, write_manifest
from fieldmark.models.registry import sketch
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.rundir import RunDirectory
from transfer_learning_tables import (
    ALL,
    MODES,
    OTHERS,
    SECOND,
    STORE,
    Found,
    Plan,
    Result,
    text_of,
)

SIDES = Path(__file__).with_name("transfer_learning_sides.py")
FEWER = ["scratch=2", "redrawn=1", "stored=1", "streamed=1", "fastai=1", "ultralytics=1"]
ANOTHER_SEED = 1000  # added for a second run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="has train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="of timm's mobilenetv2_100")
    parser.add_argument("--others", type=Path, help="Python of an environment with the others")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="write-up's, and over the views")
    parser.add_argument(
        "--baseline-epochs",
        type=int,
        nargs="+",
        default=[3],
        help="the write-up's epochs that are run, for each seed (the last word for all further "
        "ones); fewer than --epochs, and its time is scaled",
    )
    parser.add_argument("--tuned-epochs", type=int, default=3, help="finetune, partial, scratch")
    parser.add_argument("--store-epochs", type=int, default=4, help="with and without the store")
    parser.add_argument("--other-epochs", type=int, default=3, help="fastai, Ultralytics")
    parser.add_argument(
        "--fewer",
        nargs="*",
        metavar="SIDE=SEEDS",
        default=FEWER,
        help=f"sides measured with fewer seeds; {' '.join(FEWER)}",
    )
    parser.add_argument("--sides", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--raw", type=Path, help="JSON of every measurement")
    arguments = parser.parse_args()
    if not arguments.others:
        arguments.sides = [side for side in arguments.sides if side not in OTHERS]
    if set(SECOND) & set(arguments.sides) and "frozen" not in arguments.sides:
        parser.error("second runs need the first one: add frozen to --sides")
    stage = middle_stage(sketch("mobilenetv2_100", {}))
    assert stage is not None
    plan = Plan(arguments, stage)
    found: Found = {side: {} for side in arguments.sides}
    with tempfile.TemporaryDirectory() as made:
        for seed in plan.seeds:
            measure_seed(plan, seed, Path(made) / str(seed), found)
            if arguments.raw:
                arguments.raw.write_text(json.dumps(found))
            arguments.out.write_text(text_of(plan, found), encoding="utf-8")
    print(text_of(plan, found))


def measure_seed(plan: Plan, seed: int, made: Path, found: Found) -> None:
    """Every side once, on the same parts."""
    made.mkdir()
    manifest = draw(plan.arguments.photos, seed, made)
    for side in ALL:
        if not plan.wants(side, seed):
            continue
        mark, cpu = time.perf_counter(), cpu_seconds_of_children()
        result = run_side(side, task_of(plan, side, seed, made, manifest), plan, made)
        result["process_seconds"] = time.perf_counter() - mark
        result["cpu_seconds"] = cpu_seconds_of_children() - cpu
        if side == "frozen":
            check_same_parts(manifest, RunDirectory(made / side).manifest)
        found[side][seed] = result
        accuracies = [
            f"{part} {result[f'{part}_accuracy']:.3f}"
            for part in ("val", "test")
            if f"{part}_accuracy" in result
        ]
        times = f"{result['seconds']:.1f} s (the process {result['process_seconds']:.1f} s, "
        said = [f"{times}{result['cpu_seconds']:.1f} s of CPU)", *accuracies]
        print(f"  seed {seed}, {side}: {', '.join(said)}", file=sys.stderr, flush=True)


def cpu_seconds_of_children() -> float:
    """Of processes that have ended, with their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def draw(photos: Path, seed: int, made: Path) -> Path:
    """The parts that `fieldmark train --seed` draws: as a manifest, and as folders of links."""
    recipe = Recipe(source=str(photos), seed=seed)
    samples, _ = find_samples(photos, recipe, Silent())
    drawn = draw_parts(look_for_copies(samples, recipe, Silent()), recipe)
    for sample in drawn.samples:
        folder = made / "parts" / str(sample.part) / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(sample.path).resolve()
        (folder / f"{source.parents[1].name}_{source.name}").symlink_to(source)
    write_manifest(drawn, made / "manifest.csv")
    return made / "manifest.csv"


def check_same_parts(drawn: Path, trained: Path) -> None:
    """All sides must have seen the same pictures."""
    one, other = (
        {Path(sample.path).resolve(): sample.part for sample in read_samples(path)}
        for path in (drawn, trained)
    )
    assert one == other, "fieldmark train drew other parts than the other sides were given"


def task_of(plan: Plan, side: str, seed: int, made: Path, manifest: Path) -> Result:
    """What a side is told."""
    arguments = plan.arguments
    task: Result = {
        "folder": str((made / "parts").resolve()),
        "weights": str(arguments.weights.resolve()),
        "out": str(made / side),
        "seed": seed,
        "epochs": arguments.epochs,
        # A first run begins with the folder, and all that it is looked at for.
        "source": str(arguments.photos if side in ("frozen", "redrawn") else manifest),
        "mode": side if side in MODES else "frozen",
        "stored": side != "streamed",
        "settings": {},
    }
    if side == "pytorch":
        task["epochs"] = plan.baseline_epochs(seed)
    if side in ("again", "redrawn"):
        task["seed"] += ANOTHER_SEED
    if side == "logistic":
        task["settings"] = {"transfer.head": "logistic"}
    if side in MODES:
        task["epochs"] = arguments.tuned_epochs
    if side == "partial":
        task["settings"] = {"training.freeze_through": plan.stage}
    if side in STORE:
        # A head trained on features first would begin from another head without the store.
        words = {"training.freeze_through": plan.stage, "transfer.head_first": False}
        task["settings"] = {**words, "augment.preset": "none"}
        task |= {"mode": "partial", "epochs": arguments.store_epochs}
    if side in OTHERS:
        task["epochs"] = arguments.other_epochs
    return task


def run_side(side: str, task: Result, plan: Plan, made: Path) -> Result:
    """One process; what it prints to stderr is shown."""
    python = plan.arguments.others if side in OTHERS else Path(sys.executable)
    script = side if side in ("pytorch", *OTHERS) else "fieldmark"
    # The runs with and without the store find pixels, and have to compute their features.
    process = subprocess.run(
        [str(python), str(SIDES), script, json.dumps(task)],
        env=os.environ | {"FIELDMARK_CACHE": str(made / "cache"), "YOLO_OFFLINE": "true"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{side} failed:\n{process.stdout}")
    result: Result = json.loads(process.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
