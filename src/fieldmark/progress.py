"""How a long job tells where it stands: bars in a terminal, plain lines in a pipe, or nothing.

A job takes a `Progress` and never asks which kind it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

PLAIN_LINE_EVERY_SECONDS = 15.0


class Task(Protocol):
    """One counted job."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` (say, the loss) stands beside the bar."""


class Progress(Protocol):
    """Where a long job reports."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> AbstractContextManager[Task]:
        """`with progress.task("decoding", 245) as task:` counts to `total`.

        Args:
            total: None where nobody knows.
            done: what was there before the job began, and tells nothing about its speed.
            in_bytes: what is counted are bytes, and shown as MB.
        """


class Silent:
    """Reports nothing: what a `Predictor` does by itself, and a training when it is given this."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Task]:
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class Terminal:
    """Live bars with elapsed and remaining time; lines that stay scroll above them."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        # File and class names stand in `text`: no [tags], and no :codes: that turn into pictures.
        self.console.print(text, markup=False, emoji=False, highlight=False)

    @contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # Unless told otherwise, rich sends everything printed meanwhile to the console of the bars:
        # with bars on stderr, results meant for stdout would be lost to `> answers.json`.
        with Bars(
            *columns,
            console=self.console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as bars:
            yield _Bar(bars, bars.add_task(title, total=total, completed=done, note=""))


class _Bar:
    def __init__(self, bars: Bars, task_id: object) -> None:
        self.bars, self.task_id = bars, task_id

    def advance(self, count: int = 1, note: str = "") -> None:
        self.bars.update(self.task_id, advance=count, note=note)  # type: ignore[arg-type]


class Lines:
    """Plain lines for pipes and log files: one now and then while a job is long."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(
        self, title: str, total: int | None, *, done: int = 0, in_bytes: bool = False
    ) -> Iterator[Task]:
        yield _LineTask(self, title, total, done, in_bytes)


class _LineTask:
    def __init__(
        self, lines: Lines, title: str, total: int | None, done: int, in_bytes: bool
    ) -> None:
        self.lines, self.title, self.total = lines, title, total
        self.shown: Callable[[int], str] = size if in_bytes else str
        self.before = self.done = done
        self.started = self.last_line = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done == self.before or now - self.last_line < PLAIN_LINE_EVERY_SECONDS:
            return
        self.last_line = now
        text = f"{self.title}: {self.shown(self.done)}"
        if self.total is not None:
            unit_seconds = (now - self.started) / (self.done - self.before)
            left = duration(unit_seconds * (self.total - self.done))
            text += f"/{self.shown(self.total)}, about {left} left"
        self.lines.say(f"{text}, {note}" if note else text)


def console_progress(*, stderr: bool = False) -> Terminal | Lines:
    """Bars where a person watches, lines where the output is piped."""
    console = Console(stderr=stderr)
    return Terminal(console) if console.is_terminal else Lines(console)


def duration(seconds: float) -> str:
    """A time span for people: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: int) -> str:
    """An amount of bytes for people, in powers of 1000 as disks are sold: `97.8 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.99995 * factor:  # from here on, kB would be rounded to 1000.0
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
