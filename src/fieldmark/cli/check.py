"""`fieldmark check`: what is wrong or odd in a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fieldmark.cli.options import BAD_PICTURES, DepthOption, SourceArgument, example, program
from fieldmark.progress import console_progress, duration

EXAMPLE = example(
    "fieldmark check photos/",
    "fieldmark check photos/ --write-manifest clean.csv",
    "fieldmark train clean.csv",
)


def check(
    source: SourceArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="The directory to write. Default: check-NAME, or the next free name."),
    ] = None,
    write_manifest: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write the data set without the findings, to train on."),
    ] = None,
    depth: DepthOption = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit code 1 for leaks, label conflicts, unreadable files."),
    ] = False,
) -> None:
    """Find damaged, doubled, blank and odd pictures before training.

    Nothing of SOURCE is changed, moved or deleted. Findings are no failure: the exit code is 0
    unless --strict is given.
    """
    from fieldmark.data.sources.candidates import counted
    from fieldmark.inspection import PAGE_NAME, TABLE_NAME
    from fieldmark.inspection import check as look
    from fieldmark.printing import print_check

    done = look(
        source,
        out=out,
        clean_manifest=write_manifest,
        depth=depth or 1,
        progress=console_progress(),
    )
    print_check(done.checked)
    typer.echo(
        f"\nLook at {done.path / PAGE_NAME}; every finding is a row of {done.path / TABLE_NAME} "
        f"({duration(done.seconds)})"
    )
    if done.clean is not None:
        went = ", ".join(f"{kind}: {count:,}" for kind, count in done.went.items())
        typer.echo(
            f"{done.clean} leaves out "
            + (f"{counted(sum(done.went.values()), 'picture')} ({went})" if went else "nothing")
            + f"\nNext: {program()} train {done.clean}"
        )
    elif done.findings:
        typer.echo(
            f"Next: {program()} check {source} --write-manifest clean.csv leaves findings out"
        )
    if strict and done.checked.num_serious:
        serious = counted(done.checked.num_serious, "serious finding")
        typer.echo(f"{serious}: leaks, label conflicts, unreadable files", err=True)
        raise typer.Exit(BAD_PICTURES)
