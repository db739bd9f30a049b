"""Work on many pictures at once, in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_SLICE: Final = 64  # items queued at a time
_PER_TASK: Final = 4  # handing over a task takes as long as decoding a picture of 28 px
T = TypeVar("T")
R = TypeVar("R")


def num_cores() -> int:
    """Cores that this process may use; a batch system may give it few of a large machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`map` in threads, a slice at a time: few results wait to be taken, and a failure or Ctrl-C
    leaves little queued work behind.

    Threads, not processes: Pillow decodes and resizes outside Python's lock, and nothing has to be
    copied between processes.
    """

    def some(start: int) -> tuple[list[R], BaseException | None]:
        done: list[R] = []
        try:
            for item in items[start : start + _PER_TASK]:
                done.append(work(item))
        except BaseException as error:  # raised below, when what was done before it is taken
            return done, error
        return done, None

    with ThreadPoolExecutor(num_cores(), thread_name_prefix="fieldmark-decode") as pool:
        for start in range(0, len(items), _SLICE):
            stop = min(start + _SLICE, len(items))
            for done, error in pool.map(some, range(start, stop, _PER_TASK)):
                yield from done
                if error is not None:
                    raise error
