"""How much memory a piece of work took at its fullest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil
import torch

SAMPLE_EVERY_SECONDS: Final = 0.05


@dataclass
class MemoryPeak:
    """The figure, whole once the work is done.

    Attributes:
        num_bytes: the most at any time.
        what: what was measured, in words.
    """

    num_bytes: int
    what: str


@contextmanager
def memory_peak(device: torch.device) -> Iterator[MemoryPeak]:
    """Around the work. On CUDA, what tensors took on `device`; elsewhere, the resident memory of
    this process, looked at every 50 ms: Python, libraries, and what earlier work has not given
    back count too, and a shorter peak may be missed.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        peak = MemoryPeak(0, "tensors on the GPU")
        try:
            yield peak
        finally:
            peak.num_bytes = torch.cuda.max_memory_allocated(device)
        return
    process = psutil.Process()
    peak = MemoryPeak(process.memory_info().rss, "resident memory of the whole process")
    done = threading.Event()

    def look() -> None:
        peak.num_bytes = max(peak.num_bytes, process.memory_info().rss)

    def watch() -> None:
        while not done.wait(SAMPLE_EVERY_SECONDS):
            look()

    thread = threading.Thread(target=watch, name="fieldmark-memory-peak", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        look()
