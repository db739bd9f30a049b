"""What a check can find, in the order of how much harm it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fieldmark.types import LeftOut, Part, Sample

Kind = Literal[
    "leak",
    "label conflict",
    "unreadable",
    "not a picture",
    "wrong ending",
    "duplicate",
    "blank",
    "class size",
    "odd size",
    "odd mode",
    "outlier",
    "not looked at",
]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class About:
    """What is said of every finding of one kind."""

    severity: Severity
    meaning: str
    fix: str


KINDS: Final[dict[Kind, About]] = {
    "leak": About(
        "error",
        "one picture in two parts: what is trained on is tested on, and the figures are too good",
        "take it out of one part; a clean manifest keeps it in test, else in val",
    ),
    "label conflict": About(
        "error",
        "one picture in two classes: one of the labels is wrong",
        "look which label is right and remove the other copy; a clean manifest leaves out both, "
        "since nothing says which is right",
    ),
    "unreadable": About(
        "error",
        "damaged, truncated, or closed to you (as a whole folder may be): it is left out of every "
        "training",
        "get it again, check its permissions, or remove it",
    ),
    "not a picture": About(
        "warning",
        "of a kind that is not read: it is left out of every training",
        "remove it from the class folders, or convert it to JPEG or PNG",
    ),
    "wrong ending": About(
        "warning",
        "the name promises another format than the file has: Fieldmark reads it all the same, "
        "other programs may not",
        "rename it",
    ),
    "duplicate": About(
        "warning",
        "a picture several times in one class: it counts several times, and a draw of parts may "
        "separate the copies",
        "keep one of them; a clean manifest does",
    ),
    "blank": About(
        "warning",
        "almost all of one colour: nothing to learn from, often a stand-in for a lost picture",
        "look at it, and remove it if it shows nothing; a clean manifest leaves it out",
    ),
    "class size": About(
        "warning",
        "too few pictures of a class to learn it, or far more of another",
        'add pictures of the small classes; training.sampling = "balanced" shows them more often',
    ),
    "odd size": About(
        "note",
        "much smaller than the others, or much longer than wide",
        "look at it: it may be a thumbnail, an icon or a banner",
    ),
    "odd mode": About(
        "note",
        "pixels of another make than the others' (transparent, CMYK, grey among colour ...)",
        "nothing, unless one class has most of them: a network would learn that instead",
    ),
    "outlier": About(
        "note",
        "brightness, contrast or colour unlike the rest of the set; only the most extreme are told",
        "look at it: it may be wrongly exposed, a drawing, or none of the classes",
    ),
    "not looked at": About(
        "note",
        "it lies where no picture is looked for, or its name or row cannot be used",
        "move it into a class folder if it belongs to one",
    ),
}
STRICT: Final[tuple[Kind, ...]] = ("leak", "label conflict", "unreadable")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        path: the picture; empty where it is about a class.
        label, part: of that picture, empty where unknown.
        others: the pictures it is a copy of, the one to keep first.
        detail: what exactly, with figures.
    """

    kind: Kind
    path: str
    label: str = ""
    part: Part | Literal[""] = ""
    others: tuple[str, ...] = ()
    detail: str = ""

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def fix(self) -> str:
        return KINDS[self.kind].fix


def finding_of(kind: Kind, sample: Sample, detail: str, others: Iterable[str] = ()) -> Finding:
    """A finding about one picture."""
    return Finding(kind, sample.path, sample.label, sample.part, tuple(others), detail)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most harmful first, then as they came."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda finding: rank[finding.kind]))


# What `scan` leaves out, and why, by the first words of its reasons.
_NO_PICTURES: Final = (
    "not a picture",
    "a PDF",
    "PostScript",
    "SVG or XML",
    "HEIC",
    "Photoshop",
)
_NOT_OPENED: Final = ("its name", "line ", "a folder", "not a regular file")


def find_left_out(left_out: Sequence[LeftOut]) -> list[Finding]:
    """What was no picture, or could not be one, before any pixel was looked at."""
    return [Finding(_kind_of(item.reason), item.path, detail=item.reason) for item in left_out]


def _kind_of(reason: str) -> Kind:
    if reason.startswith("there before"):
        return "duplicate"
    if reason.startswith("there ") and "different labels" in reason:
        return "label conflict"
    if reason.startswith("there ") and "different parts" in reason:
        return "leak"
    if reason.startswith(_NO_PICTURES):
        return "not a picture"
    return "not looked at" if reason.startswith(_NOT_OPENED) else "unreadable"


# What `scan` notes about whole places, by its first words.
_PLACES: Final[dict[str, Kind]] = {
    "Not looked at, ": "not looked at",
    "Left out, having ": "class size",
}


def find_places_passed_over(notes: Sequence[str]) -> list[Finding]:
    """Files and folders in which no picture was looked for, and classes in which none was found."""
    return [
        Finding(kind, "", detail=note.removeprefix(start))
        for note in notes
        for start, kind in _PLACES.items()
        if note.startswith(start)
    ]


def notes_besides_findings(notes: Sequence[str]) -> list[str]:
    """Those that `find_places_passed_over` makes no finding of."""
    return [note for note in notes if not note.startswith(tuple(_PLACES))]
