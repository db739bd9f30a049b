"""`fieldmark cache`: what is kept between runs, and how large it may get."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from fieldmark.cli.options import example
from fieldmark.errors import RecipeError
from fieldmark.progress import duration, size

if TYPE_CHECKING:
    from fieldmark.data.pixels.cache import Kept

_UNITS: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_WHAT: Final = {
    "exact": "as networks are shown them",
    "crops": "whole, for random crops",
    "canvas": "whole, for random crops on a GPU",
}

EXAMPLE = example("fieldmark cache", "fieldmark cache --limit 50GB", "fieldmark cache --clear")


def cache(
    limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="How large it may get: 50GB, 500MB; 0 keeps nothing."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all decoded pictures and features.")
    ] = False,
) -> None:
    """Pictures and features kept for the next run: list, limit, clear.

    They are made again from your files when they are needed, so nothing is lost with them. Your
    files, runs and downloads are not touched.
    """
    from fieldmark.data.pixels.cache import PixelCache
    from fieldmark.download import cache_directory

    kept = PixelCache()
    if limit is not None:
        before = kept.num_bytes
        kept.set_limit(parse_size(limit))
        if freed := before - kept.num_bytes:
            typer.echo(f"freed {size(freed)}")
    if clear:
        typer.echo(f"freed {size(kept.clear())}")
    forms = kept.list_kept()
    if forms:
        Console().print(_table(forms))
    typer.echo(f"{size(kept.num_bytes)} of at most {size(kept.limit)} in {kept.root}")
    others = [path for path in sorted(cache_directory().glob("*")) if path != kept.root]
    if others:
        num_bytes = sum(
            path.stat().st_size
            for other in others
            for path in (other, *other.rglob("*"))
            if path.is_file()
        )
        typer.echo(
            f"Beside it, outside the limit, {size(num_bytes)} of downloads and notes: "
            f"{', '.join(path.name for path in others)}"
        )


def parse_size(text: str) -> int:
    """Bytes of `50GB`, `1.5 gb`, `500MB` (powers of 1000).

    Raises:
        RecipeError: no such size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", text.strip().lower())
    unit = found[2] + "b" * (found[2] in ("k", "m", "g", "t")) if found else "?"
    # A bare 5 is more likely meant as 5 GB than as 5 bytes, which would remove everything.
    if found is None or unit not in _UNITS or (not unit and float(found[1])):
        raise RecipeError(
            "this is not a size",
            given=repr(text),
            valid="a number with kB, MB, GB or TB: 50GB",
            fix="for example --limit 50GB",
        )
    return round(float(found[1]) * _UNITS[unit])


def _what(about: dict[str, object]) -> str:
    """What a folder of the cache has, in words."""
    kind = str(about.get("kind"))
    if kind == "features":
        return f"features of {about.get('network', '?')}"
    return _WHAT.get(kind, "?")


def _table(forms: list[Kept]) -> Table:
    table = Table("what", "px", "channels", "how many", "size", "used", box=None)
    for form in forms:
        about = form.about
        table.add_row(
            _what(about),
            str(about.get("size", "?")),
            str(about.get("channels", "?")),
            f"{form.num_pictures:,}",
            size(form.num_bytes),
            f"{duration(time.time() - form.used)} ago",
        )
    return table
