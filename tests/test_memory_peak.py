"""The memory that work took at its fullest."""

from __future__ import annotations

import threading
import time

import numpy as np
import psutil
import pytest
import torch

from fieldmark.allocator import give_memory_back
from fieldmark.memory_peak import SAMPLE_EVERY_SECONDS, memory_peak

MB = 1_000_000


def test_memory_that_was_given_back_is_still_the_peak() -> None:
    give_memory_back()  # other tests have had the process keep what they freed
    before = psutil.Process().memory_info().rss
    with memory_peak(torch.device("cpu")) as peak:
        held = np.ones(300 * MB, np.uint8)
        time.sleep(6 * SAMPLE_EVERY_SECONDS)
        del held
    give_memory_back()
    assert 250 * MB < peak.num_bytes - before < 600 * MB
    assert psutil.Process().memory_info().rss < peak.num_bytes - 200 * MB
    assert "process" in peak.what


def test_no_thread_stays_whatever_happens() -> None:
    with pytest.raises(KeyboardInterrupt), memory_peak(torch.device("cpu")) as peak:
        raise KeyboardInterrupt
    assert not [t for t in threading.enumerate() if t.name == "fieldmark-memory-peak"]
    assert peak.num_bytes > MB


@pytest.mark.gpu
def test_on_cuda_tensors_are_counted_and_earlier_ones_forgotten() -> None:
    device = torch.device("cuda:0")
    torch.ones(400 * MB, dtype=torch.uint8, device=device)
    with memory_peak(device) as peak:
        torch.ones(100 * MB, dtype=torch.uint8, device=device)
    assert 100 * MB <= peak.num_bytes < 300 * MB
