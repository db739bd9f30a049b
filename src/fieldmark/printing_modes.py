"""How a comparison of modes looks in a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fieldmark.evaluation.modes import ModeResult, p_words
from fieldmark.progress import duration, size

PIPE_COLUMNS: Final = 400  # a file has no width: nothing is cut where no terminal asks for it


def print_comparison(
    results: Sequence[ModeResult], best: str, notes: Sequence[str], advice: Sequence[str]
) -> None:
    """A row a mode; then how the figures came about, and what they advise."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("mode", no_wrap=True)
    for heading in ("test accuracy", f"against {best}", "time", "trained", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        cells = ("failed",) if result.failed else _cells(result)
        style = "bold" if result.mode == best else ""
        table.add_row(*map(Text, (result.mode, *cells)), style=style)
    console.print()
    console.print(table)
    for result in results:
        if result.failed:
            console.print(
                f"{result.mode}: {result.failed}",
                style="red",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    console.print()
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(" ".join(advice), markup=False, highlight=False, soft_wrap=True)


def _cells(result: ModeResult) -> tuple[str, ...]:
    test, paired = result.test, result.paired
    assert test is not None
    against = "the best"
    if paired is not None:
        against = f"{p_words(paired.p_value)} ({paired.num_discordant})"
    return (
        f"{test.value:.3f} ({test.low:.3f}-{test.high:.3f})",
        against,
        duration(result.seconds),
        _count(result.num_trainable),
        "-" if result.peak_bytes is None else size(result.peak_bytes),
    )


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
