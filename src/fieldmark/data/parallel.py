"""Work on many pictures at once, in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

_PER_TASK: Final = 4  # handing over a task takes as long as decoding a picture of 28 px
_WAITING: Final = 16  # tasks that are queued, or done and not yet taken
T = TypeVar("T")
R = TypeVar("R")


def num_cores() -> int:
    """Cores that this process may use; a batch system may give it few of a large machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`map` in threads, few items ahead: few results wait to be taken, and a failure or Ctrl-C
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

    starts = iter(range(0, len(items), _PER_TASK))
    with ThreadPoolExecutor(num_cores(), thread_name_prefix="fieldmark-decode") as pool:
        pending = deque(pool.submit(some, start) for start in islice(starts, _WAITING))
        try:
            while pending:
                done, error = pending.popleft().result()
                yield from done
                if error is not None:
                    raise error
                # One in, one out: with a pause after every so many, threads would wait for the
                # slowest of them each time.
                pending.extend(pool.submit(some, start) for start in islice(starts, 1))
        finally:
            for task in pending:
                task.cancel()
