"""`fieldmark check`: what is wrong or odd in a data set, before it costs a training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fieldmark.data.check.clean import clean
from fieldmark.data.check.findings import Finding, Kind
from fieldmark.data.check.result import Checked, check_manifest
from fieldmark.data.manifest import Manifest, write_manifest
from fieldmark.data.sources.own import CHECK_PAGE, CHECK_TABLE
from fieldmark.data.sources.scan import scan
from fieldmark.errors import OutputError
from fieldmark.evaluation.tables import csv_text
from fieldmark.files import (
    atomic_folder,
    cannot_write,
    check_is_free,
    check_is_unused,
    free_directory,
    write_text,
)
from fieldmark.pages.check_page import write_check_page
from fieldmark.progress import Progress, console_progress

TABLE_NAME: Final = CHECK_TABLE
PAGE_NAME: Final = CHECK_PAGE
_HEADER: Final = ("kind", "severity", "path", "label", "part", "other_path", "detail")


@dataclass(frozen=True)
class Check:
    """What a check found, and where it is written.

    Attributes:
        path: the directory with check.csv and check.html.
        source: what was checked, in words.
        checked: all that was seen; `checked.findings` in the order of harm.
        clean: the manifest without the findings, where one was asked for.
        went: how many pictures it leaves out for which reason.
        seconds: from the call to the last file.
    """

    path: Path
    source: str
    checked: Checked
    clean: Path | None
    went: Mapping[Kind, int]
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The most harmful first."""
        return self.checked.findings


def check(
    source: str | Path | Manifest | Iterable[Any],
    *,
    out: str | Path | None = None,
    clean_manifest: str | Path | None = None,
    depth: int = 1,
    progress: Progress | None = None,
) -> Check:
    """Look at every picture of `source` for what spoils a training: copies across parts or classes,
    files that cannot be read, blank and odd pictures, classes too small. Findings are no failure,
    and nothing of the source is changed.

    Args:
        source: as `train` takes it.
        out: the directory for check.csv and check.html, which are there together or not at all;
            None takes a free `check-NAME` here.
        clean_manifest: a CSV to write that leaves the findings out: unreadable and blank pictures,
            all copies with two labels, and all but one of other copies. `train` takes it.
        depth: of class folders, as `train` takes it.
        progress: where to report; None reports to the terminal.

    Raises:
        SourceError: no labelled pictures are found, or none would be left in the clean manifest.
        OutputError: `out` or `clean_manifest` exists, they are one, or one cannot be written.
    """
    started = time.perf_counter()
    progress = progress or console_progress()
    words = str(source) if isinstance(source, str | Path) else "pictures"
    target = Path(out) if out is not None else free_directory(Path(f"check-{_name_of(words)}"))
    _check_places(target, Path(clean_manifest) if clean_manifest is not None else None)

    manifest = scan(source, depth=depth, progress=progress)
    checked = check_manifest(manifest, progress)
    cleaned = None
    if clean_manifest is not None:
        blank = [finding for finding in checked.findings if finding.kind == "blank"]
        cleaned = clean(manifest, checked.looks, checked.copies, blank)

    with _whole(target) as folder:
        write_text(folder / TABLE_NAME, findings_csv(checked.findings))
        write_check_page(folder / PAGE_NAME, checked, words, TABLE_NAME, progress)
    if clean_manifest is not None and cleaned is not None:
        write_manifest(cleaned.manifest, clean_manifest)
    return Check(
        path=target,
        source=words,
        checked=checked,
        clean=Path(clean_manifest) if clean_manifest is not None else None,
        went=cleaned.went if cleaned is not None else {},
        seconds=time.perf_counter() - started,
    )


def findings_csv(findings: Iterable[Finding]) -> str:
    """A row a finding."""
    rows = (
        (f.kind, f.severity, f.path, f.label, f.part, f.others[0] if f.others else "", f.detail)
        for f in findings
    )
    return csv_text([_HEADER, *rows])


def _check_places(target: Path, clean_manifest: Path | None) -> None:
    """Raise OutputError for what would be refused once the pictures have been looked at."""
    if not target.is_dir():
        check_is_free(target)
    check_is_unused(target)
    if clean_manifest is None:
        return
    if clean_manifest.absolute() == target.absolute():
        raise OutputError(
            "the page and the clean manifest cannot both be this",
            given=f"--out {target} --write-manifest {clean_manifest}",
            valid="--out names a directory, --write-manifest a CSV",
            fix="--write-manifest clean.csv",
        )
    check_is_free(clean_manifest)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target`; into an empty one that the user has made
    already, its files are moved in the end.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        if not target.exists():
            with atomic_folder(target) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix=".check.", dir=target) as name:
            yield Path(name)
            for path in sorted(Path(name).iterdir()):
                path.rename(target / path.name)
    except OSError as error:
        raise cannot_write(target, error) from error


def _name_of(words: str) -> str:
    """The last word of a source, as a file name: `photos/`, `photos.csv`, `hf:org/photos`."""
    return Path(words).resolve().stem.replace(":", "-") or "pictures"
