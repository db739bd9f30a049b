"""How far a download is that somebody else makes: by what has arrived in its folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fieldmark.progress import Progress, Task

LOOK_EVERY_SECONDS: Final = 0.5


@contextmanager
def watched(folder: Path, title: str, total: int | None, progress: Progress) -> Iterator[None]:
    """Report, while the block runs, how many bytes came to lie in `folder`, which may not be there
    yet. `total`: what is to come; None where nobody knows."""
    before, stop = _bytes_in(folder), threading.Event()
    with progress.task(title, total, in_bytes=True) as task:
        watcher = threading.Thread(target=_watch, args=(folder, before, task, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _watch(folder: Path, before: int, task: Task, stop: threading.Event) -> None:
    seen = before
    while True:
        is_last = stop.wait(LOOK_EVERY_SECONDS)
        now = _bytes_in(folder)
        if now > seen:
            task.advance(now - seen)
            seen = now
        if is_last:
            return


def _bytes_in(folder: Path) -> int:
    """Of the files directly in it; files that vanish meanwhile count nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    except OSError:
        return 0
    return total
