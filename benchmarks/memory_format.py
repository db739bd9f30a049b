"""Does channels-last memory make a training step faster?

    python benchmarks/memory_format.py --out benchmarks/memory_format_HARDWARE_DATE.md

Both layouts in one process, alternating, on random pictures; forward, backward and AdamW step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fieldmark.models.registry import create_model
from fieldmark.runtime import describe_machine, open_runtime

CASES = (  # network, px, batch size, channels
    ("resnet10", 32, 64, 1),
    ("resnet18", 32, 64, 1),
    ("resnet18", 96, 32, 3),
    ("resnet18", 224, 16, 3),
    ("resnet50", 224, 8, 3),
    ("vgg16", 224, 4, 3),
    ("alexnet_half", 224, 32, 3),
)
LAYOUTS = {"default": torch.contiguous_format, "channels-last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runtime = open_runtime(arguments.device, "float32")
    rows = [measure(*case, runtime.device, arguments.repeats) for case in CASES]
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(runtime).items())
    text = (
        "# Channels-last memory in a training step\n\n"
        f"Made by `python benchmarks/memory_format.py --repeats {arguments.repeats}`: medians of "
        f"{arguments.repeats} steps, the layouts alternating in one process.\n\n"
        f"Machine: {machine}. Shared and noisy: read the ratio.\n\n"
        "| network | px | batch | default, pictures/s | channels-last, pictures/s | "
        "time of a step, share |\n|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


def measure(
    name: str, size: int, batch: int, channels: int, device: torch.device, repeats: int
) -> str:
    """One row of the table."""
    steps = {
        word: make_step(name, size, batch, channels, device, fmt) for word, fmt in LAYOUTS.items()
    }
    seconds: dict[str, list[float]] = {word: [] for word in LAYOUTS}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for word, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[word].append(time.perf_counter() - started)
    plain, last = (statistics.median(seconds[word]) for word in LAYOUTS)
    return (
        f"| {name} | {size} | {batch} | {batch / plain:.1f} | {batch / last:.1f} | "
        f"{last / plain:.2f} |"
    )


def make_step(
    name: str, size: int, batch: int, channels: int, device: torch.device, fmt: torch.memory_format
) -> Callable[[], None]:
    """A closure that does one whole training step and waits for it."""
    model = create_model(name, num_classes=10, in_channels=channels).to(device, memory_format=fmt)
    images_bchw = torch.randn(batch, channels, size, size, device=device).to(memory_format=fmt)
    labels_b = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images_bchw), labels_b).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


if __name__ == "__main__":
    main()
