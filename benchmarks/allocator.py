"""What keeping freed memory (`fieldmark.allocator`) brings on a CPU, and what it costs.

    python benchmarks/allocator.py --out benchmarks/allocator_HARDWARE_DATE.md

Each measurement is a process of its own, with it and without, alternating: the network evaluates
batches of random pictures as it is, in its fastest form, and takes training steps. Peak memory is
the process's largest resident set.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fieldmark.allocator import keep_freed_memory
from fieldmark.models.contract import as_network
from fieldmark.models.cut import cut_network
from fieldmark.models.fold import inference_form
from fieldmark.models.registry import create_model
from fieldmark.runtime import describe_machine, open_runtime

CASES = (("resnet18", 96), ("resnet18", 224), ("mobilenetv2_100", 224), ("resnet50", 224))
BATCH = 32
WORK = ("evaluation", "features, fastest form", "training step")
FEWEST = 5  # of each work in a process; the median is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each side")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("NAME", "SIZE", "SIDE"), help="a measurement")
    arguments = parser.parse_args()
    if arguments.one:
        name, size, side = arguments.one
        if side == "kept":
            assert keep_freed_memory(), "glibc is needed, and none of its own variables"
        print(json.dumps(measure(name, int(size))))
        return
    rows = [row for case in CASES for row in compare(*case, arguments.repeats)]
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    text = f"""# Freed memory kept by a process that computes on a CPU

Made by `python benchmarks/allocator.py --repeats {arguments.repeats}`: medians of \
{arguments.repeats} processes of each side, alternating; batches of {BATCH}. \
Milliseconds are of one picture; the ratio is that of the medians.

Machine: {machine}. A virtual machine, where a page that the kernel gives out anew costs more than \
on bare metal. Shared and noisy: read the ratio.

| network | px | work | as glibc has it, ms | kept, ms | times as fast | smallest-largest of \
pairs | peak memory, MB | kept, MB |
|---|---|---|---|---|---|---|---|---|
""" + "\n".join(rows)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def compare(name: str, size: int, repeats: int) -> list[str]:
    """The rows of a network."""
    found: dict[str, list[dict[str, float]]] = {"glibc": [], "kept": []}
    for _ in range(repeats):
        for side, results in found.items():
            command = [sys.executable, __file__, "--one", name, str(size), side]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
        print(name, size, {side: results[-1] for side, results in found.items()}, flush=True)
    rows = []
    for work in WORK:
        glibc, kept = ([each[work] for each in results] for results in found.values())
        pairs = sorted(one / other for one, other in zip(glibc, kept, strict=True))
        ratio = statistics.median(glibc) / statistics.median(kept)
        peaks = [
            f"{statistics.median(each['peak ' + work] for each in results) / 1e6:.0f}"
            for results in found.values()
        ]
        rows.append(
            f"| {name} | {size} | {work} | {statistics.median(glibc):.2f} | "
            f"{statistics.median(kept):.2f} | {ratio:.2f} | {pairs[0]:.2f}-{pairs[-1]:.2f} | "
            f"{peaks[0]} | {peaks[1]} |"
        )
    return rows


def measure(name: str, size: int) -> dict[str, float]:
    """Milliseconds a picture of each work, and the peak until then, bytes."""
    model = create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    network = as_network(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    form = inference_form(cut_network(model, network.stages[:-1], size).lower, images[:8])

    def evaluate() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    def compute_features() -> None:
        form(images)

    def train() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    found: dict[str, float] = {}
    works: tuple[Callable[[], None], ...] = (evaluate, compute_features, train)
    for title, work in zip(WORK, works, strict=True):
        work()
        seconds = []
        for _ in range(FEWEST):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        found[title] = 1000 * statistics.median(seconds) / BATCH
        found["peak " + title] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found


if __name__ == "__main__":
    main()
