"""`fieldmark split`: parts that stay, as folders, links or tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fieldmark.cli.options import (
    DepthOption,
    GroupByOption,
    SeedOption,
    SourceArgument,
    example,
    program,
)
from fieldmark.errors import RecipeError
from fieldmark.progress import console_progress

if TYPE_CHECKING:
    from fieldmark.partition import AnyForm, Partition

EXAMPLE = example(
    "fieldmark split photos/ parts/ --val 0.1 --test 0.2",
    "fieldmark split photos/ parts.csv --manifest --group-by '(film\\d+)_'",
    "fieldmark split photos/ folds/ --folds 5",
)


def split(
    source: SourceArgument,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The folder to write; with --manifest a NAME.csv."),
    ],
    val: Annotated[
        float | None, typer.Option(help="Share that chooses the best epoch. Default: 0.1.")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share held back for the end. Default: 0.1.")
    ] = None,
    seed: SeedOption = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures: the default.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Link to the pictures instead.")] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write a CSV alone. The default with --folds.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(help="Make so many splits; each picture is tested in one.")
    ] = None,
    group_by: GroupByOption = None,
    ignore_duplicates: Annotated[
        bool,
        typer.Option(
            "--ignore-duplicates",
            help="Do not look for pictures that are nearly alike; else they stay in one part.",
        ),
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Forget the parts that SOURCE has.")
    ] = False,
    keep_parts: Annotated[
        bool, typer.Option("--keep-parts", help="Write the parts that SOURCE has; draw nothing.")
    ] = False,
    depth: DepthOption = None,
) -> None:
    """Divide labelled pictures into train, val and test, for good.

    Every class is divided alike; what belongs together stays together.

    SOURCE is only read; OUT is whole or not there.
    """
    from fieldmark.partition import split as divide

    wanted: dict[AnyForm, bool] = {"copy": copy, "link": link, "manifest": manifest}
    forms = [form for form, is_wanted in wanted.items() if is_wanted]
    if len(forms) > 1:
        raise RecipeError(
            "there is one form at a time",
            given=" ".join(f"--{form}" for form in forms),
            valid=" or ".join(f"--{form}" for form in wanted),
            fix="drop all but one",
        )
    done = divide(
        str(source),
        out,
        val=val,
        test=test,
        seed=seed or 0,
        form=forms[0] if forms else None,
        folds=folds,
        group_by=group_by or "",
        near_duplicates=not ignore_duplicates,
        redraw=redraw,
        keep_parts=keep_parts,
        depth=depth or 1,
        progress=console_progress(),
    )
    _print(done, out, kept=keep_parts)


def _print(done: Partition, out: Path, *, kept: bool) -> None:
    from fieldmark.printing import print_parts

    print_parts(done.manifests)
    train = f"{program()} train"
    if len(done.manifests) > 1:
        first, *_, last = (out / table.relative_to(done.path) for table in done.tables)
        typer.echo(f"\nwrote {out}\nNext: {train} {first}, and so on to {last}")
        return
    # Without a test part, `train` would take the val that was drawn for it, and draw another.
    no_test = not kept and not done.manifest.of_part("test")
    typer.echo(f"\nwrote {out}\nNext: {train} {out}{' --val-is-val' if no_test else ''}")
