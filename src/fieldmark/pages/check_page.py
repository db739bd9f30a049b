"""The page of a check: every kind of finding with thumbnails, copies side by side."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from fieldmark import __version__
from fieldmark.data.check.findings import KINDS, Finding, Kind
from fieldmark.data.check.result import MEASURED_AT, Checked
from fieldmark.data.parts.groups import below_common_folder
from fieldmark.evaluation.tables import printable
from fieldmark.files import write_text
from fieldmark.pages.thumbnails import data_url
from fieldmark.progress import Progress
from fieldmark.types import PARTS, Part

SHOWN_A_KIND: Final = 24  # findings with thumbnails; check.csv has all
OTHERS_SHOWN: Final = 2  # copies beside a picture
MAX_CLASSES: Final = 60  # bars

_TEMPLATE: Final = "check.html.j2"


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail with its words. `url` is None where there is nothing to see."""

    url: str | None
    path: str
    words: str


@dataclass(frozen=True, slots=True)
class Card:
    """One finding, as it is shown."""

    pictures: tuple[Picture, ...]
    detail: str
    num_more: int


@dataclass(frozen=True, slots=True)
class Section:
    """All that is shown of one kind of finding."""

    kind: Kind
    severity: str
    meaning: str
    fix: str
    total: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A class: its pictures in all, and the width of each part in percent of the largest class."""

    name: str
    total: int
    parts: tuple[tuple[str, int, float], ...]


def write_check_page(
    path: Path, checked: Checked, source: str, table_name: str, progress: Progress
) -> None:
    """Write the page: one file, no scripts, nothing loaded from elsewhere.

    Raises:
        OutputError: it cannot be written.
    """
    import jinja2

    words = _Words(checked)
    sections = []
    by_kind = checked.by_kind()
    with progress.task("drawing the page", len(by_kind)) as task:
        for kind, found in by_kind.items():
            about = KINDS[kind]
            cards = tuple(words.card(finding) for finding in found[:SHOWN_A_KIND])
            sections.append(
                Section(kind, about.severity, about.meaning, about.fix, len(found), cards)
            )
            task.advance()
    template = (files("fieldmark") / "assets" / _TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(template).render(
        source=_text(source),
        version=__version__,
        table_name=table_name,
        checked=checked,
        measured_at=MEASURED_AT,
        sections=sections,
        bars=_bars(checked)[:MAX_CLASSES],
        num_classes=len(checked.manifest.class_names),
        parts=[part for part in PARTS if checked.manifest.of_part(part)],
        num_pictures=len(checked.manifest.samples),
        notes=[_text(note) for note in (*checked.notes, *checked.manifest.notes)],
    )
    write_text(path, text)


class _Words:
    """How pictures are called on the page: by what their paths do not all have in common."""

    def __init__(self, checked: Checked) -> None:
        manifest = checked.manifest
        paths = [sample.path for sample in manifest.samples]
        paths += [item.path for item in manifest.left_out]
        self.places = dict(zip(paths, below_common_folder(paths), strict=True))
        self.samples = {sample.path: sample for sample in manifest.samples}

    def picture(self, path: str) -> Picture:
        sample = self.samples.get(path)
        words = " in ".join(filter(None, (sample.label, sample.part))) if sample else ""
        return Picture(data_url(path), _text(self.places.get(path, path)), _text(words))

    def card(self, finding: Finding) -> Card:
        shown = (*filter(None, [finding.path]), *finding.others[:OTHERS_SHOWN])
        detail = finding.detail
        if finding.label and not finding.path:  # about a class; a detail that names it is enough
            detail = detail if finding.label in detail else f"{finding.label}: {detail}"
        num_more = max(0, len(finding.others) - OTHERS_SHOWN)
        return Card(tuple(map(self.picture, shown)), _text(detail), num_more)


def _bars(checked: Checked) -> tuple[Bar, ...]:
    manifest = checked.manifest
    totals = manifest.count_by_class()
    largest = max(totals.values())
    has_parts = any(sample.part for sample in manifest.samples)
    names: tuple[Part | Literal[""], ...] = PARTS if has_parts else ("",)
    counts = {part: manifest.count_by_class(part) for part in names}
    return tuple(
        Bar(
            _text(name),
            total,
            tuple((part, counts[part][name], 100 * counts[part][name] / largest) for part in names),
        )
        for name, total in totals.items()
    )


def _text(text: str) -> str:
    """Without what no page can hold. The template escapes the rest."""
    return printable(text)
