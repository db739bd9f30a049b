"""A time span as people write it."""

from __future__ import annotations

import re
from typing import Final

from fieldmark.errors import RecipeError

LONGEST_SECONDS: Final = 90 * 24 * 3600

_UNITS: Final = re.compile(
    r"(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)\s*s?)?",
    re.ASCII | re.IGNORECASE,
)


def parse_budget(text: str) -> float:
    """Seconds that a time span means: `90s`, `10m`, `1h30m`, `2h`; `600` alone are seconds.

    Raises:
        RecipeError: no time span, nothing, or more than 90 days.
    """
    words = text.strip()
    match = _UNITS.fullmatch(words)
    # "1h30" may mean minutes as well as seconds: a bare number counts only where it is alone.
    if match and (match[1] or match[2]) and match[3] and words[-1] not in "sS":
        match = None
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600.0 * hours + 60.0 * minutes + seconds
    if not match or not 0 < total <= LONGEST_SECONDS:
        raise RecipeError(
            "this is no time that a training could take",
            given=f"budget = {words[:40]!r}",
            valid="hours, minutes and seconds, more than none and up to 90 days: 90s, 10m, 1h30m",
            fix="for example --budget 10m",
        )
    return total
