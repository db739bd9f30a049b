"""How a long job tells where it stands: bars in a terminal, plain lines in a pipe, or nothing.

A job takes a `Progress` and never asks which kind it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
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

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """`with progress.task("decoding", 245) as task:` counts to `total`."""


class Silent:
    """Reports nothing: what a `Predictor` does by itself, and a training when it is given this."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
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
    def task(self, title: str, total: int) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
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
            yield _Bar(bars, bars.add_task(title, total=total, note=""))


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
    def task(self, title: str, total: int) -> Iterator[Task]:
        yield _LineTask(self, title, total)


class _LineTask:
    def __init__(self, lines: Lines, title: str, total: int) -> None:
        self.lines, self.title, self.total = lines, title, total
        self.done = 0
        self.started = self.last_line = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done == 0 or now - self.last_line < PLAIN_LINE_EVERY_SECONDS:
            return
        self.last_line = now
        left_seconds = (now - self.started) / self.done * (self.total - self.done)
        text = f"{self.title}: {self.done}/{self.total}, about {duration(left_seconds)} left"
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
