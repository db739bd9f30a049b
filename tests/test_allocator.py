"""Freed memory stays with the process: asked in processes of their own, as it is for the whole."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from textwrap import dedent

import pytest

from fieldmark.allocator import USERS_OWN

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory"
)
# 16 blocks of 40 MB, one after another: glibc on its own asks for each anew.
PROGRAM = """
    import resource
    import torch
    from fieldmark.allocator import give_memory_back, keep_freed_memory

    def faults_of(num_blocks):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(num_blocks):
            torch.ones(10_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

    faults_of(1)
    without = faults_of(16)
    kept = keep_freed_memory()
    faults_of(16)
    held = resident()
    print(kept, without, faults_of(16), held, end=" ")
    give_memory_back()
    print(resident())
"""


def run_program(**environment: str) -> tuple[bool, int, int, int, int]:
    own = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    result = subprocess.run(
        [sys.executable, "-c", dedent(PROGRAM)],
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, without, with_it, held, after = result.stdout.split()
    return kept == "True", int(without), int(with_it), int(held), int(after)


@needs_glibc
def test_blocks_are_used_again_and_given_back_when_asked() -> None:
    kept, without, with_it, held, after = run_program()
    assert kept
    assert without > 10 * with_it, (without, with_it)
    assert held - after > 35e6, (held, after)  # the 40 MB that were free


@needs_glibc
def test_what_the_environment_says_is_left_alone() -> None:
    kept, without, with_it, _, _ = run_program(MALLOC_MMAP_THRESHOLD_="1000000")
    assert not kept
    assert with_it > without / 2, (without, with_it)


def test_a_runtime_on_the_cpu_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from fieldmark import runtime

    calls: list[None] = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: calls.append(None))
    runtime.open_runtime("cpu")
    assert len(calls) == 1
