"""Memory that a CPU computes in, kept between one tensor and the next.

glibc asks the kernel for every block of 32 MB and more anew and hands it back when it is freed, and
the kernel clears each page before it gives it out again. A network's maps are such blocks, by the
hundred in every step: the fastest form of MobileNetV2 spends two thirds of its time waiting for
pages (benchmarks/allocator_*.md). Kept, they are there at once.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable
from functools import cache, wraps
from typing import Final, ParamSpec, TypeVar

# Of glibc's malloc.h; see `man mallopt`.
TRIM_THRESHOLD: Final = -1  # so many free bytes at the end of the heap go back to the kernel
MMAP_THRESHOLD: Final = -3  # blocks of so many bytes are asked for one by one
MMAP_MAX: Final = -4  # at most so many blocks are
MOST: Final = 2**31 - 1  # mallopt takes a C int

# With any of these the user has said how memory is to be had.
USERS_OWN: Final = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_TEST",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


P = ParamSpec("P")
T = TypeVar("T")
_kept: list[bool] = []  # whether this process has been told, once it has been asked to


def keep_freed_memory() -> bool:
    """Have this process keep blocks of up to 2 GB that are freed, until `give_memory_back`.

    For the whole process, whoever else computes in it: that is how the C library has it.

    Returns:
        Whether it was done: with glibc alone, and where no variable of the environment says how
        memory is to be had.
    """
    if not _kept:
        _kept.append(_tell_malloc())
    return _kept[0]


def _tell_malloc() -> bool:
    if any(os.environ.get(name) for name in USERS_OWN):
        return False
    libc = _glibc()
    if libc is None:
        return False
    # Before 2.35 glibc takes no threshold above 32 MB; there no block is asked for one by one.
    told = libc.mallopt(MMAP_THRESHOLD, MOST) == 1 or libc.mallopt(MMAP_MAX, 0) == 1
    return bool(told and libc.mallopt(TRIM_THRESHOLD, MOST) == 1)


def give_memory_back() -> None:
    """Hand what is free, and was kept, to the kernel; nothing where nothing is kept."""
    libc = _glibc() if any(_kept) else None
    if libc is not None:
        libc.malloc_trim(0)


def gives_memory_back(work: Callable[P, T]) -> Callable[P, T]:
    """The same function, that hands back what it leaves free, once nothing of it is left."""

    @wraps(work)
    def wrapped(*args: P.args, **words: P.kwargs) -> T:
        try:
            return work(*args, **words)
        finally:
            gc.collect()  # networks and their hooks refer to each other in circles
            give_memory_back()

    return wrapped


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt.argtypes, libc.mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return libc
