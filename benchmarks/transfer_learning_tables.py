"""What benchmarks/transfer_learning.py measures, by side and seed, and its tables.

It measures nothing itself: the other script imports it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.runtime import describe_machine, open_runtime

OTHERS = ("fastai", "ultralytics")
SECOND = ("again", "redrawn", "logistic")  # runs after `frozen`, in its cache
MODES = ("finetune", "partial", "scratch")
STORE = ("stored", "streamed")
ALL = ("pytorch", "frozen", *SECOND, *MODES, *STORE, *OTHERS)
GOAL, PUBLISHED = 0.965, 0.93  # test accuracy: what is aimed at, what the write-up says

Result = dict[str, Any]
Found = dict[str, dict[int, Result]]


@dataclass(frozen=True)
class Plan:
    """What is measured, and the words that every table ends with."""

    arguments: argparse.Namespace
    stage: str  # partial is frozen through it

    @property
    def seeds(self) -> range:
        return range(self.arguments.seeds)

    def wants(self, side: str, seed: int) -> bool:
        """Whether this side is measured with this seed."""
        few = dict(word.split("=") for word in self.arguments.fewer)
        return side in self.arguments.sides and seed < int(few.get(side, seed + 1))

    def baseline_epochs(self, seed: int) -> int:
        """How many epochs of the write-up's training are run with this seed."""
        given = self.arguments.baseline_epochs
        return min(self.arguments.epochs, given[min(seed, len(given) - 1)])


def text_of(plan: Plan, found: Found) -> str:
    arguments = plan.arguments
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    command = shlex.join(["python", "benchmarks/transfer_learning.py", *sys.argv[1:]])
    tables: list[tuple[str, str, str]] = []
    if found.get("pytorch"):
        tables.append(("Time to a trained model", *time_table(plan, found)))
    if any(found.get(side) for side in ("frozen", *MODES)):
        tables.append(("Test accuracy by mode", *accuracy_table(plan, found)))
    if all(found.get(side) for side in STORE):
        tables.append(("`partial` with and without the feature store", *store_table(plan, found)))
    if found.get("frozen"):
        tables.append(("A second frozen run", *second_table(found)))
    parts = [
        f"## {title}\n\n{table}\n\n{words}\n\nMade by `{command}` on {machine}.\n"
        for title, table, words in tables
    ]
    return (
        "# Transfer learning with features computed once\n\n"
        "Ants and bees: 10 % of train/ drawn as validation (24 pictures, so one picture is "
        "0.042), val/ as the test part; timm's mobilenetv2_100 with the same weights and 224 px "
        "everywhere. Every figure is of a process of its own. *Seconds* are from the first line "
        "of work, with everything imported, to the trained model; *whole process* adds imports and "
        "the look at the test part, and its CPU seconds are those of its workers too, which other "
        "work on the machine changes least. Cells are medians with the smallest and largest in "
        f"brackets; accuracies are means. Seeds {spoken(list(plan.seeds))} unless a row has fewer. "
        f"{arguments.photos.name} has one GIF, a placeholder, which ImageFolder does not read.\n\n"
        + "\n".join(parts)
    )


def time_table(plan: Plan, found: Found) -> tuple[str, str]:
    """How long each side takes, and whether it is as good on validation."""
    epochs = plan.arguments.epochs
    base = {seed: scaled(result, epochs) for seed, result in found["pytorch"].items()}
    least = {seed: result["val_accuracy"] for seed, result in found["pytorch"].items()}
    short = [s for s in found["pytorch"] if plan.baseline_epochs(s) < epochs]
    mark = f" (**scaled from fewer with seeds {spoken(short)}**)" if short else ""
    names = {
        "pytorch": f"plain PyTorch, the write-up's fixed mode, {epochs} epochs{mark}",
        "frozen": f"fieldmark frozen, {epochs} epochs over the views, first run",
        "again": "the same pictures again, another seed",
        "logistic": "the same pictures again, `--head logistic`",
        "fastai": f"fastai `vision_learner`, frozen, one cycle of {plan.arguments.other_epochs}",
    }
    rows = []
    for side, name in names.items():
        results = found.get(side)
        if not results:
            continue
        seconds = base if side == "pytorch" else {s: r["seconds"] for s, r in results.items()}
        as_good = [results[s]["val_accuracy"] >= least[s] for s in results if s in least]
        rows.append(
            [
                name,
                spoken(list(results)),
                spread(list(seconds.values()), 1),
                spread([base[seed] / seconds[seed] for seed in seconds], 1),
                mean(results, "val_accuracy"),
                "" if side == "pytorch" else f"{sum(as_good)} of {len(as_good)}",
                mean(results, "test_accuracy"),
                spread([r["import_seconds"] for r in results.values()], 1),
                spread([r["process_seconds"] for r in results.values()], 1),
                spread([r["cpu_seconds"] for r in results.values()], 0),
            ]
        )
    head = (
        "side | seeds | seconds | times as fast | validation accuracy | equal or better | "
        "test accuracy | seconds to import | whole process, s | its CPU seconds"
    )
    return table_of(head, rows), time_words(plan, found)


def time_words(plan: Plan, found: Found) -> str:
    """What has to be known to read the times."""
    epochs = plan.arguments.epochs
    short = [s for s in found["pytorch"] if plan.baseline_epochs(s) < epochs]
    words = [
        "The write-up's fixed mode as its authors would run it: ImageFolder, batches of 4, 4 "
        "loader workers, random resized crops and flips, SGD 0.001 with momentum 0.9 on the new "
        "layer alone, validation after every epoch, and its mistake kept: the frozen network is in "
        "training mode, so that batch norm uses and changes its statistics. *Equal or better*: "
        "seeds whose best validation accuracy is at least the write-up's best with that seed. The "
        "first fieldmark run begins with an empty cache, looks for copies, decodes, and computes "
        "each view once; the others find pixels and features."
    ]
    if short:
        run = [str(plan.baseline_epochs(seed)) for seed in short]
        words.append(
            f"**Scaled, not measured:** with seeds {spoken(short)} the write-up's training ran "
            f"for {'/'.join(dict.fromkeys(run))} epochs; its seconds are what came before the "
            f"first plus {epochs} times the mean epoch, and its accuracies are those after the "
            "epochs that ran."
        )
    epoch = spread([statistics.mean(r["epoch_seconds"]) for r in found["pytorch"].values()], 1)
    words.append(
        f"An epoch of the write-up's: {epoch} s. n: {len(found['pytorch'])} seeds; 24 pictures of "
        f"validation, a test part of {next(iter(found['pytorch'].values()))['num_test']}."
    )
    if found.get("fastai"):
        words.append(
            f"fastai: batches of 32, a loader worker a core, its own head and trained batch norms, "
            f"the last epoch's weights; an epoch {epoch_of(found['fastai'])} s. Its seconds are "
            f"of {plan.arguments.other_epochs} epochs, not of {epochs}."
        )
    if found.get("ultralytics"):
        words.append(
            "Ultralytics takes no such weights: torchvision's mobilenet_v2 of random weights under "
            "its own head, all else frozen by `freeze=1`, batches of 32; an epoch with its "
            f"validation {epoch_of(found['ultralytics'])} s (seeds "
            f"{spoken(list(found['ultralytics']))}), accuracy not comparable."
        )
    return "\n\n".join(words)


def accuracy_table(plan: Plan, found: Found) -> tuple[str, str]:
    """What each mode reaches on the test part."""
    arguments = plan.arguments
    names = {
        "frozen": f"frozen, {arguments.epochs} epochs over the views",
        "logistic": "frozen, `--head logistic`",
        "partial": f"partial through {plan.stage}, {arguments.tuned_epochs} epochs",
        "finetune": f"finetune from a head, {arguments.tuned_epochs} epochs",
        "scratch": f"scratch, {arguments.tuned_epochs} epochs",
        "pytorch": f"the write-up's fixed mode, {'/'.join(map(str, arguments.baseline_epochs))} "
        "epochs",
    }
    rows = []
    for side, name in names.items():
        if results := found.get(side):
            each = ", ".join(f"{r['test_accuracy']:.3f}" for r in results.values())
            n = next(iter(results.values()))["num_test"]
            seconds = spread([r["seconds"] for r in results.values()], 1)
            summary = mean(results, "test_accuracy")
            rows.append([name, f"{len(results)} x {n}", summary, each, seconds])
    words = [
        "n is seeds x test pictures, the same pictures with every seed; the spread is over seeds "
        "(validation part, order, views, new layers). The first frozen run finds nothing in its "
        "cache; partial, finetune and scratch find its pixels, and partial and finetune its views "
        "for the head they begin with."
    ]
    frozen, tuned = found.get("frozen"), found.get("finetune")
    if frozen:
        average = statistics.mean(r["test_accuracy"] for r in frozen.values())
        words.append(
            f"Frozen {average:.3f}: {'at or above' if average >= GOAL else 'below'} the {GOAL} "
            f"aimed at, {'above' if average > PUBLISHED else 'not above'} the published "
            f"{PUBLISHED}."
        )
    if frozen and tuned:
        gains = [tuned[s]["test_accuracy"] - frozen[s]["test_accuracy"] for s in tuned]
        words.append(
            f"Finetune is not below frozen with {sum(g >= 0 for g in gains)} of {len(gains)} "
            f"seeds; the mean difference is {statistics.mean(gains):+.3f}."
        )
    return table_of("mode | n | mean (min-max) | by seed | seconds", rows), " ".join(words)


def store_table(plan: Plan, found: Found) -> tuple[str, str]:
    """The same training on stored features, and with the frozen part in every epoch."""
    rows = []
    for side, name in (("stored", "with the store"), ("streamed", "without")):
        results = list(found[side].values())
        later = [statistics.median(r["epoch_seconds"][1:] or r["epoch_seconds"]) for r in results]
        computing = [r["features"]["seconds"] for r in results]
        first = [r["epoch_seconds"][0] + r["features"]["seconds"] for r in results]
        cells = [spread(values, 2) for values in (later, computing, first)]
        rows.append([name, *cells, spread([r["seconds"] for r in results], 1)])
    apart = max(
        abs(a - b)
        for seed in found["stored"]
        for ours, theirs in zip(
            found["stored"][seed]["losses"], found["streamed"][seed]["losses"], strict=True
        )
        for a, b in zip(ours, theirs, strict=True)
    )
    seeds = list(found["stored"])
    of_both = "epoch, s | computing features, s | first epoch with them, s | seconds"
    result = found["stored"][seeds[0]]
    words = (
        f"Frozen through {plan.stage}, no augmentation, {plan.arguments.store_epochs} epochs, "
        f"batches of 32, {result['num_train']} training pictures, seeds {spoken(seeds)}; pixels "
        "found by both. An epoch counts its validation, and is the median of those after the "
        f"first. Largest difference of a training or validation loss: {apart:.1e}."
    )
    return table_of(f"side | {of_both}", rows), words


def second_table(found: Found) -> tuple[str, str]:
    """Where the time of first and second frozen runs goes."""
    names = {
        "frozen": "first run",
        "again": "second run, another seed, the same parts",
        "redrawn": "second run on the folder, another seed: parts drawn anew",
        "logistic": "second run, `--head logistic`",
    }
    rows = []
    for side, name in names.items():
        if not (results := found.get(side)):
            continue
        runs = list(results.values())

        def cell(value: Callable[[Result], float], runs: Sequence[Result] = runs) -> str:
            return spread([value(run) for run in runs], 2)

        counts = [f"{run['features']['found']:,} of {run['features']['all']:,}" for run in runs]
        rows.append(
            [
                name,
                spoken(list(results)),
                counts[0],
                cell(lambda r: r["features"]["seconds"]),
                cell(lambda r: sum(r["epoch_seconds"])),
                cell(lambda r: r["seconds"]),
                cell(lambda r: r["whole_seconds"]),
            ]
        )
    head = (
        "run | seeds | features found (first seed) | computing or loading features, s | "
        "training, s | seconds | with the look at val and test, and all files, s"
    )
    words = (
        f"n: {len(found['frozen'])} first runs. What is neither features nor training is the look "
        "at the folder, decoding or loading pixels, building the network and reading its weights."
    )
    return table_of(head, rows), words


def scaled(result: Result, epochs: int) -> float:
    """Seconds of a training of so many epochs: what it took, or what its own epochs say."""
    run = result["epoch_seconds"]
    if len(run) == epochs:
        return float(result["seconds"])
    return float(result["seconds"] - sum(run) + epochs * statistics.mean(run))


def epoch_of(results: dict[int, Result]) -> str:
    return spread([statistics.median(r["epoch_seconds"]) for r in results.values()], 1)


def spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def mean(results: dict[int, Result], name: str) -> str:
    values = [result[name] for result in results.values()]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def spoken(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def table_of(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
