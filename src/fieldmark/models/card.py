"""What is known of a network before it is built."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

TIMM_PREFIX: Final = "timm/"  # before the names that both we and timm have, where timm's is meant


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a network before it is built.

    Attributes:
        family: the class of a network written out here; for timm's, the file it is in there.
        year, paper: when and where it is described; None for timm's, which does not say it.
        default_size_px: height and width of the input it was made for.
        min_size_px: the smallest height and width it admits, without options.
        has_norm: it has normalisation layers, of whatever kind, so it trains at higher rates.
        num_parameters: with 1000 classes and 3 channels.
    """

    name: str
    family: str
    year: int | None
    paper: str | None
    default_size_px: int
    min_size_px: int
    has_norm: bool
    num_parameters: int


def matches(name: str, pattern: str | None) -> bool:
    """Whether a network of this name is asked for.

    Args:
        pattern: part of a name, or with `*`, `?` or `[` a pattern for the whole of it; capital
            letters mean small ones, and `timm/` may be left out.
    """
    if pattern is None:
        return True
    pattern = pattern.strip().lower()
    if not any(sign in pattern for sign in "*?["):
        return pattern in name
    return any(fnmatchcase(n, pattern) for n in (name, name.removeprefix(TIMM_PREFIX)))
