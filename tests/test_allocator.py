"""Freed memory stays with the process: asked in processes of their own, as it is for the whole."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import weakref
from textwrap import dedent

import pytest

from fieldmark import allocator
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


def test_what_a_function_leaves_free_is_given_back_whatever_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And when it is: with nothing of it left that would hold the memory."""
    left: list[weakref.ref[object]] = []
    seen: list[object] = []

    class Thing:
        pass

    @allocator.gives_memory_back
    def work(fails: bool) -> int:
        thing = Thing()
        thing.itself = thing  # type: ignore[attr-defined]  # as networks and their hooks do
        left.append(weakref.ref(thing))
        if fails:
            raise ValueError("no")
        return 7

    monkeypatch.setattr(allocator, "give_memory_back", lambda: seen.append(left[-1]()))
    assert work(False) == 7
    assert seen == [None]
    with pytest.raises(ValueError, match="no"):
        work(True)
    assert len(seen) == 2


def test_an_older_glibc_is_told_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Older:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return int(parameter != allocator.MMAP_THRESHOLD)

    for name in USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator, "_glibc", Older)
    monkeypatch.setattr(allocator, "_kept", [])
    assert allocator.keep_freed_memory()
    assert (allocator.MMAP_MAX, 0) in told
    assert allocator.keep_freed_memory()
    assert len(told) == 3  # once for the process


def test_a_runtime_on_the_cpu_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from fieldmark import runtime

    calls: list[None] = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: calls.append(None))
    runtime.open_runtime("cpu")
    assert len(calls) == 1
