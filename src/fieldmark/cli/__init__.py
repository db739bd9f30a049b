"""The command line. `verbs` has a function a verb, `weights` those of `fieldmark weights`."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from fieldmark.cli.stopping import end_on_sigterm
from fieldmark.cli.verbs import app

__all__ = ["app", "main"]


def main() -> None:
    """What the `fieldmark` command runs."""
    for stream in (sys.stdout, sys.stderr):
        _speak_any_script(stream)
    end_on_sigterm()
    app()


def _speak_any_script(stream: TextIO | None) -> None:
    """Classes and files may be named in any script: no name may end in a UnicodeEncodeError.

    Windows gives files and pipes the encoding of the region, in which most scripts cannot be
    written: they get UTF-8. A terminal keeps what it can show, and gets the rest as codes.
    """
    if isinstance(stream, io.TextIOWrapper):  # None without a console, or another program's own
        encoding = None if stream.isatty() else "utf-8"
        stream.reconfigure(encoding=encoding, errors="backslashreplace")
