"""Which columns of a data set are the pictures and the labels, and the samples in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fieldmark.data.sources.arrow import locator, open_table
from fieldmark.errors import SourceError
from fieldmark.types import LeftOut, Part, Sample

if TYPE_CHECKING:
    from fieldmark.data.sources.hf import HubSource

_LABEL_WORDS: Final = (
    *("label", "labels", "class", "class_name", "category", "target", "y", "species"),
)
NO_LABEL: Final = "no label"


@dataclass(frozen=True)
class Columns:
    """The two columns; `names`: of the classes by number, where the data set has them."""

    image: str
    label: str
    names: tuple[str, ...] | None

    def label_of(self, value: object) -> str | None:
        """The class name behind a value; None where there is none."""
        if value is None or value == "":
            return None
        if self.names is None:
            return str(value)
        assert isinstance(value, int)
        return self.names[value] if 0 <= value < len(self.names) else None

    def in_order(self, used: Sequence[str]) -> tuple[str, ...]:
        """The classes that are used, as the data set numbers them; numbers by their size."""
        if self.names is not None:
            return tuple(name for name in self.names if name in set(used))
        if all(name.removeprefix("-").isdecimal() for name in used):
            return tuple(sorted(used, key=int))
        return tuple(sorted(used))


def choose_columns(source: HubSource, features: Mapping[str, Any]) -> Columns:
    """The columns that the user has named, else the only ones that can be meant.

    Raises:
        SourceError: none, or several; lists them, and says how to choose.
    """
    pictures = [name for name, kind in features.items() if _is_picture(kind)]
    classes = [name for name, kind in features.items() if hasattr(kind, "names")]
    plain = [name for name, kind in features.items() if _is_plain(kind)]
    by_word = [name for name in plain if name.lower() in _LABEL_WORDS]
    image = _choose(source, features, "image", pictures, pictures + _binary(features))
    label = _choose(source, features, "label", classes or by_word, classes + plain)
    return Columns(image, label, tuple(getattr(features[label], "names", ())) or None)


def _choose(
    source: HubSource,
    features: Mapping[str, Any],
    word: Literal["image", "label"],
    likely: list[str],
    possible: list[str],
) -> str:
    given = getattr(source, word)
    if given in possible or (given is None and len(likely) == 1):
        return given or likely[0]
    what = {"image": "pictures", "label": "labels"}[word]
    if given is not None:
        problem = f"the data set has no column {given!r} that could hold {what}"
    elif likely:
        problem = f"several columns could hold the {what}"
    else:
        problem = f"it is not clear which column holds the {what}"
    example = (likely or possible or ["COLUMN"])[0]
    raise SourceError(
        problem,
        given=source.text,
        valid="; ".join(f"{name} ({_about(kind)})" for name, kind in features.items()),
        fix=f"say which: {source.text.partition(f',{word}=')[0]},{word}={example}"
        if possible
        else f"take a data set that has a column of {what}",
    )


def _is_picture(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _is_plain(kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    is_value = type(kind).__name__ == "Value"
    return is_value and (dtype in ("string", "large_string", "bool") or "int" in dtype)


def _binary(features: Mapping[str, Any]) -> list[str]:
    wanted = ("binary", "large_binary")
    return [name for name, kind in features.items() if getattr(kind, "dtype", "") in wanted]


def _about(kind: Any) -> str:
    if _is_picture(kind):
        return "pictures"
    if hasattr(kind, "names"):
        return f"{len(kind.names)} classes"
    return str(getattr(kind, "dtype", type(kind).__name__))


def read_rows(split: Any, columns: Columns, part: Part) -> tuple[list[Sample], list[LeftOut]]:
    """Samples of a split, and rows without a picture or a label; none is decoded."""
    import pyarrow
    import pyarrow.compute as compute

    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    for file in (entry["filename"] for entry in split.cache_files):
        table = open_table(file)
        pictures = table.column(columns.image)
        files: list[str | None] = [None] * table.num_rows
        there = [True] * table.num_rows
        if pyarrow.types.is_struct(pictures.type):
            there = compute.is_valid(compute.struct_field(pictures, "bytes")).to_pylist()
            files = compute.struct_field(pictures, "path").to_pylist()
        values = table.column(columns.label).to_pylist()
        for row, (value, has_bytes, path) in enumerate(zip(values, there, files, strict=True)):
            place = path if path and not has_bytes else ""
            place = place or locator(file, row, columns.image, table.schema)
            label = columns.label_of(value)
            if label is None:
                left_out.append(LeftOut(place, NO_LABEL))
            else:
                samples.append(Sample(place, label, part))
    return samples, left_out
