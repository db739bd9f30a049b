"""Class names of any script, drawn or replaced, never as empty boxes.

DejaVu Sans (inside matplotlib) draws Latin, Greek, Cyrillic, Arabic, Hebrew and plain emoji; Noto
Sans CJK (a dependency) Chinese, Japanese and Korean; whatever else this machine has is searched
only when a character is still missing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib import font_manager
from noto_cjk_sans_otc import FONT_PATH

FIRST_FAMILY: Final = "DejaVu Sans"
# Fonts whose every glyph is a box or nothing, and bitmap fonts that matplotlib cannot scale.
NOT_LETTERS: Final = ("last resort", "lastresort", "adobe blank", "color emoji", "colour emoji")
JOINERS: Final = "\u200c\u200d"  # without a shape, but Persian and Indic spelling needs them


@dataclass(frozen=True)
class Lettering:
    """The fonts for the texts of one picture, and what to write where they do not suffice.

    Attributes:
        families: font families in the order in which matplotlib shall look for a character.
        missing: the characters of those texts that no font on this machine can draw.
    """

    families: tuple[str, ...]
    missing: frozenset[str]

    @property
    def style(self) -> dict[str, Any]:
        """Keywords for matplotlib texts; `$` and backslashes stay what they are."""
        return {
            "family": list(self.families),
            "weight": "normal",
            "style": "normal",
            "parse_math": False,
            "usetex": False,
        }

    def line(self, text: str, most: int) -> str:
        """`text` on one line of at most `most` columns; what cannot be drawn becomes `?`."""
        drawn = "".join("?" if c in self.missing else c for c in _without_extras(text, self))
        return shorten(re.sub(r"\?+", "?", drawn) if self.missing else drawn, most)

    def names(self, class_names: Sequence[str], most: int) -> list[str]:
        """Class names of at most `most` columns, all different.

        A name that cannot be drawn, and one that shortening made equal to another, carries its
        number: `#3` is class 3 in the model's order, counted from 0 as in `class_indices.json`.
        """
        shorts = []
        for number, name in enumerate(class_names):
            drawn = _without_extras(name, self)
            lost = not drawn or any(c in self.missing for c in drawn)
            shorts.append(f"#{number}" if lost else shorten(drawn, most))
        seen = Counter(shorts)
        return [
            f"#{number} {shorten(short, max(1, most - len(str(number)) - 2))}"
            if seen[short] > 1
            else short
            for number, short in enumerate(shorts)
        ]


def lettering_for(texts: Iterable[str]) -> Lettering:
    """Find the fonts that draw `texts`. May search the machine's fonts (a second, once)."""
    characters = frozenset("".join(map(_tidy, texts)))
    families = [FIRST_FAMILY]
    missing = _undrawn(FIRST_FAMILY, characters)
    if missing:
        cjk = _cjk_family(characters)
        left = _undrawn(cjk, missing)
        if left != missing:
            families.append(cjk)
        found, missing = _search(left)
        families += found
    return Lettering(families=tuple(families), missing=missing)


def columns(text: str) -> int:
    """Width as a terminal counts it: 2 for East Asian wide characters, 0 for combining marks."""
    return sum(_columns_of(c) for c in text)


def shorten(text: str, most: int) -> str:
    """`text` in at most `most` columns, its middle left out: long names often differ at the end."""
    if columns(text) <= most:
        return text
    head_columns = most // 2
    return f"{_fitting(text, head_columns)}…{_fitting(text[::-1], most - head_columns - 1)[::-1]}"


def _fitting(text: str, most: int) -> str:
    total = 0
    for position, character in enumerate(text):
        total += _columns_of(character)
        if total > most:
            return text[:position].rstrip()
    return text


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _tidy(text: str) -> str:
    """One line, composed (macOS file names come decomposed), without control characters."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(
        c for c in composed if c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf")
    )


def _without_extras(text: str, lettering: Lettering) -> str:
    """Leave out missing characters that only refine the one before: joiners, variants, skin."""
    return "".join(
        c
        for c in _tidy(text)
        if c not in lettering.missing
        or not (c in JOINERS or "\ufe00" <= c <= "\ufe0f" or "\U0001f3fb" <= c <= "\U0001f3ff")
    )


def _undrawn(family: str, characters: frozenset[str]) -> frozenset[str]:
    """The characters that the font matplotlib takes for `family` cannot draw."""
    try:
        path = font_manager.findfont(
            font_manager.FontProperties(family=[family], weight="normal", style="normal"),
            fallback_to_default=False,
        )
        font = font_manager.get_font(path)
        font.set_size(10, 100)  # a bitmap font says here that it cannot
        return frozenset(c for c in characters if not _draws(font, c))
    except (OSError, RuntimeError, ValueError):
        return characters


def _draws(font: Any, character: str) -> bool:
    if font.get_char_index(ord(character)) == 0:
        return False
    x_min, y_min, x_max, y_max = font.load_char(ord(character)).bbox
    # Colour fonts may have a glyph without an outline: nothing would appear.
    has_shape = x_max > x_min and y_max > y_min
    return has_shape or character.isspace() or unicodedata.category(character) in ("Mn", "Cf", "Lo")


@functools.cache
def _cjk_families() -> tuple[str, ...]:
    """Make the bundled font known to matplotlib, this process only; the names it goes by.

    matplotlib before 3.11 sees only the first face of a collection (Japanese letter shapes).
    """
    font_manager.fontManager.addfont(str(FONT_PATH))
    return tuple(f.name for f in font_manager.fontManager.ttflist if f.fname == str(FONT_PATH))


def _cjk_family(characters: frozenset[str]) -> str:
    """One code point stands for the Chinese, Japanese and Korean shape of a character; the other
    letters of the names tell which is wanted, Chinese where nothing does."""
    names = _cjk_families()
    region = "SC"
    if any("\u3040" <= c <= "\u30ff" for c in characters):
        region = "JP"
    elif any("\uac00" <= c <= "\ud7a3" for c in characters):
        region = "KR"
    wanted = f"Noto Sans CJK {region}"
    return wanted if wanted in names else names[0]


@functools.lru_cache(maxsize=64)
def _search(missing: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of this machine that draw some of `missing`, and what still is missing."""
    installed = {
        font.name
        for font in font_manager.fontManager.ttflist
        # Asked for a weight that a family lacks, matplotlib takes another and logs about it.
        if font.weight in (400, "normal", "regular", "book")
        and font.style == "normal"
        and not any(word in font.name.lower() for word in NOT_LETTERS)
    }
    chosen: list[str] = []
    for family in sorted(installed, key=lambda name: ("Sans" not in name, name)):
        if not missing:
            break
        left = _undrawn(family, missing)
        if left != missing:
            chosen.append(family)
            missing = left
    return tuple(chosen), missing
