"""Reading stored pictures: at their place in a file, or through a memory map?

    python benchmarks/pixel_store.py --out benchmarks/pixel_store_HARDWARE_DATE.md

Pictures of the size that training on photos at 224 px stores, in random order, from a file that is
in the system's file cache; each way in a process of its own, alternating.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fieldmark.data.pixels.form import Decoded
from fieldmark.data.pixels.packs import PackReader, PackWriter, Place, read_index
from fieldmark.runtime import describe_machine, open_runtime

SHAPE = (336, 448, 3)
NUM = 1000
WAYS = ("at their place", "memory map")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        way, folder = arguments.side
        print(json.dumps(read_all(way, Path(folder))))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for _ in range(arguments.repeats):
            for way in WAYS:
                words = [sys.executable, __file__, "--side", way, folder]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout))
    machine = ", ".join(f"{k} {v}" for k, v in describe_machine(open_runtime("cpu")).items())
    rows = [
        f"| {way} | {median(found[way], 'whole'):.0f} | {median(found[way], 'part'):.0f} | "
        f"{median(found[way], 'grown') / 1e6:.0f} |"
        for way in WAYS
    ]
    text = (
        "# Reading stored pictures\n\n"
        f"Made by `python {' '.join(sys.argv)}`: medians of {arguments.repeats} processes each, "
        f"{NUM} pictures of {SHAPE[1]} x {SHAPE[0]} px in random order, one thread.\n\n"
        f"Machine: {machine}. Shared and noisy: read the ratios.\n\n"
        "| way | a whole picture, us | half of its rows used, us | memory of the process grown by, "
        "MB |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def write(folder: Path) -> None:
    writer = PackWriter(folder, NUM)
    rng = np.random.default_rng(0)
    for number in range(NUM):
        writer.add(f"{number:064x}", Decoded(rng.integers(0, 256, SHAPE, np.uint8), 4 / 3))
    writer.seal()


def read_all(way: str, folder: Path) -> dict[str, float]:
    places = [place for pack in folder.glob("*.safetensors") for _, place in read_index(pack)]
    order = np.random.default_rng(1).permutation(len(places))
    reader = PackReader()
    maps = {pack: np.memmap(pack, np.uint8, "r") for pack in {place.pack for place in places}}

    def read(place: Place) -> np.ndarray:
        if way == "memory map":
            end = place.offset + int(np.prod(place.shape))
            return maps[place.pack][place.offset : end].reshape(place.shape)
        pixels = reader.read(place)
        assert pixels is not None
        return pixels

    before = resident()
    result = {}
    for name, rows in (("whole", slice(None)), ("part", slice(80, 248))):
        started = time.perf_counter()
        for index in order:
            np.ascontiguousarray(read(places[index])[rows]).copy()  # as a crop reads it
        result[name] = (time.perf_counter() - started) / len(places) * 1e6
    return {**result, "grown": resident() - before}


def resident() -> int:
    """Bytes of memory the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
