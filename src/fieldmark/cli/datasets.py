"""`fieldmark datasets`: the data sets that can be named, and getting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fieldmark.cli.options import example, program

if TYPE_CHECKING:
    from fieldmark.data.sources.known import KnownSet

WIDE_COLUMNS = 130  # below that, what a set is stands under the table
EXAMPLE = example("fieldmark datasets", "fieldmark datasets --get flowers", "fieldmark train mnist")


def datasets(
    get: Annotated[
        list[str] | None,
        typer.Option("--get", metavar="NAME", help="Download it, to be used without a network."),
    ] = None,
) -> None:
    """The data sets known by name: size, licence, here or not."""
    from fieldmark.data.sources.known import KNOWN_SETS
    from fieldmark.data.sources.scan import scan
    from fieldmark.errors import SourceError, check_choice
    from fieldmark.progress import console_progress

    if not get:
        _print(list(KNOWN_SETS.values()))
        return
    for name in get:
        check_choice("data set", name, tuple(KNOWN_SETS), error=SourceError)
    for name in get:
        manifest = scan(KNOWN_SETS[name], progress=console_progress())
        typer.echo(
            f"{name}: {len(manifest.samples):,} pictures of {len(manifest.class_names)} classes "
            f"are on this machine\nNext: {program()} train {name}"
        )


def _print(known_sets: list[KnownSet]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fieldmark.data.sources.fetch import is_here
    from fieldmark.printing import PIPE_COLUMNS
    from fieldmark.progress import size

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_COLUMNS)
    is_narrow = console.width < WIDE_COLUMNS
    headings = ["name", "pictures", "classes", "download", "licence", "here", "what it is"]
    if is_narrow:
        headings.pop()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        is_number = heading in ("pictures", "classes", "download")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for known in known_sets:
        row = (
            known.name,
            f"{known.num_pictures:,}",
            str(len(known.class_names)),
            size(known.num_bytes) if known.files else "-",
            known.licence,
            Text("yes", style="green") if is_here(known) else "no",
            known.about,
        )
        table.add_row(*row[: len(headings)])
    console.print(table)
    if is_narrow:
        console.print()
        for known in known_sets:
            console.print(f"{known.name}: {known.about}", highlight=False)
