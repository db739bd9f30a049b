"""Pictures unlike the rest of their set, and classes unlike the others. Only what stands out is
found: in a set of icons an icon is nothing odd."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.data.check.findings import Finding, finding_of
from fieldmark.data.check.looks import Look
from fieldmark.data.manifest import Manifest
from fieldmark.data.sources.candidates import counted
from fieldmark.errors import PictureError
from fieldmark.types import Sample

Seen = Sequence[tuple[Sample, Look]]

BLANK_SHARE: Final = 0.9  # of the pixels have one colour
EMPTY_SHARE: Final = 0.998  # the same, in a set whose pictures are mostly ground
_MAX_BLANK: Final = 0.05  # of a set; where more are so, it is how its pictures are
_MIN_BLANK: Final = 5
_SMALL: Final = 0.25  # of the median short side
_LONG: Final = 3.0  # long side to short side
_MINORITY: Final = 0.2
# Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): |0.6745 (x - median) / MAD|
# above 3.5. Photos have long tails, of which only the far end is worth a look.
MIN_SCORE: Final = 5.0
MAX_OUTLIERS: Final = 20
MIN_FOR_OUTLIERS: Final = 30
FEW_PICTURES: Final = 20
IMBALANCE: Final = 10.0  # pictures of the largest class for one of the smallest
_ENDING: Final = re.compile(r"\.(?=.*[a-z])[a-z0-9_]{1,10}")  # `.txt`, not the `.0012` of a film
_SAME_FORMAT: Final = {"MPO": "JPEG", "DIB": "BMP"}


def seen_of(samples: Sequence[Sample], looks: Sequence[Look | PictureError]) -> Seen:
    """The pictures that could be looked at."""
    return [(s, x) for s, x in zip(samples, looks, strict=True) if isinstance(x, Look)]


def find_blank(seen: Seen) -> list[Finding]:
    """Pictures almost all of one colour: a lost frame, a page, a stand-in with two lines of text.

    In a set of drawings or cut-outs, where many are so, only what is empty counts.
    """
    limit = BLANK_SHARE
    if sum(look.one_colour >= limit for _, look in seen) > max(_MIN_BLANK, _MAX_BLANK * len(seen)):
        limit = EMPTY_SHARE
    return [
        finding_of("blank", sample, f"{_percent(look.one_colour)} of its pixels have one colour")
        for sample, look in seen
        # In few pixels a tenth of them may well be the whole subject.
        if look.one_colour >= (EMPTY_SHARE if look.is_small else limit)
    ]


def find_wrong_endings(seen: Seen) -> list[Finding]:
    """Files whose name promises a format that they do not have, or no picture at all."""
    Image.init()
    promised = Image.registered_extensions()
    findings = []
    for sample, look in seen:
        if not look.format:  # inside a bundle
            continue
        ending = Path(sample.path).suffix.lower()
        said = promised.get(ending, ending if _ENDING.fullmatch(ending) else None)
        if said is not None and _plain(said) != _plain(look.format):
            detail = f"named {ending}, is a {look.format}"
            findings.append(finding_of("wrong ending", sample, detail))
    return findings


def find_odd_sizes(seen: Seen) -> list[Finding]:
    """Pictures much smaller than the others, or much longer than wide."""
    if not seen:
        return []
    median_side = float(np.median([min(look.width, look.height) for _, look in seen]))
    median_aspect = float(np.median([_aspect(look) for _, look in seen]))
    findings = []
    for sample, look in seen:
        size = f"{look.width}x{look.height} px"
        if min(look.width, look.height) < _SMALL * median_side:
            detail = f"{size}; half of the pictures have a short side of {median_side:.0f} or more"
            findings.append(finding_of("odd size", sample, detail))
        elif _aspect(look) > max(_LONG, 1.5 * median_aspect):
            detail = f"{size}: {_aspect(look):.1f} times as long as wide"
            findings.append(finding_of("odd size", sample, detail))
    return findings


_MODES: Final[tuple[tuple[Callable[[Look], bool], str], ...]] = (
    (lambda look: look.has_alpha, "transparent: laid over white"),
    (lambda look: look.mode in ("P", "PA"), "a palette of 256 colours at most"),
    (lambda look: look.mode == "CMYK", "CMYK, made for print: turned into RGB"),
    (lambda look: look.bits > 8, "more than 8 bits a channel: the upper 8 are used"),
    (lambda look: look.mode == "1", "black and white without grey"),
)


def find_odd_modes(seen: Seen) -> list[Finding]:
    """Pixels of another make than most others'."""
    odd: dict[int, list[str]] = {}
    tests = [*_MODES]
    share_grey = sum(_is_grey(look) for _, look in seen) / max(1, len(seen))
    if 0 < share_grey <= _MINORITY:
        text = f"no colour, as only {_percent(share_grey)} of the set"
        tests.append((_is_grey, text))
    elif 1 - _MINORITY <= share_grey < 1:
        text = f"in colour, as only {_percent(1 - share_grey)} of the set"
        tests.append((lambda look: not _is_grey(look), text))
    for has, text in tests:
        which = [i for i, (_, look) in enumerate(seen) if has(look)]
        if len(which) <= len(seen) / 2:
            for i in which:
                odd.setdefault(i, []).append(text)
    return [finding_of("odd mode", seen[i][0], "; ".join(odd[i])) for i in sorted(odd)]


def find_outliers(seen: Seen) -> list[Finding]:
    """The most extreme pictures in brightness, contrast and colour, each for what is oddest."""
    if len(seen) < MIN_FOR_OUTLIERS:
        return []
    mean_nc = np.array([look.mean for _, look in seen])
    luma = mean_nc @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey
    features = {
        "brightness": luma,
        "contrast": np.array([look.contrast for _, look in seen]),
        "blueness": 0.564 * (mean_nc[:, 2] - luma),  # Cb
        "redness": 0.713 * (mean_nc[:, 0] - luma),  # Cr
    }
    scores = np.stack([modified_z(values) for values in features.values()])
    worst = np.abs(scores).max(0)
    findings = []
    for i in np.argsort(-worst, kind="stable")[:MAX_OUTLIERS]:
        if worst[i] < MIN_SCORE:
            break
        which = int(np.abs(scores[:, i]).argmax())
        name, values = list(features.items())[which]
        detail = (
            f"{name} {values[i]:.2f}, {worst[i]:.1f} robust standard deviations "
            f"{'above' if scores[which, i] > 0 else 'below'} the median {np.median(values):.2f}"
        )
        findings.append(finding_of("outlier", seen[i][0], detail))
    return findings


def modified_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the median in robust standard deviations; 0 where half are equal."""
    from_median = values - np.median(values)
    mad = np.median(np.abs(from_median))
    if mad < 1e-9:
        return np.zeros_like(values)
    result: NDArray[np.float64] = 0.6745 * from_median / mad
    return result


def find_class_sizes(manifest: Manifest) -> list[Finding]:
    """Classes with few pictures to learn from, and classes far smaller than the largest."""
    counts, where = _counts_to_learn_from(manifest)
    findings = [
        Finding(
            "class size",
            "",
            name,
            detail=f"only {counted(count, 'picture')}{where}: it will be learnt badly, and figures "
            "on it will mean little",
        )
        for name, count in counts.items()
        if count < FEW_PICTURES
    ]
    if len(counts) == 1:
        detail = "the only class with pictures: there is nothing to tell it from"
        findings.append(Finding("class size", "", next(iter(counts)), detail=detail))
    return findings + find_imbalance(manifest)


def find_imbalance(manifest: Manifest, at_least: float = IMBALANCE) -> list[Finding]:
    """The smallest class, where the largest has at least so many times as many pictures."""
    counts, where = _counts_to_learn_from(manifest)
    largest, smallest = max(counts, key=lambda x: counts[x]), min(counts, key=lambda x: counts[x])
    ratio = counts[largest] / max(1, counts[smallest])
    if ratio < at_least:
        return []
    detail = (
        f"{counts[largest]:,} pictures of {largest} and {counts[smallest]:,} of {smallest}"
        f"{where}: {ratio:.0f} to 1"
    )
    return [Finding("class size", "", smallest, detail=detail)]


def _counts_to_learn_from(manifest: Manifest) -> tuple[dict[str, int], str]:
    """Pictures of each class in train, or where nothing is divided in all; and where, in words."""
    has_parts = any(sample.part == "train" for sample in manifest.samples)
    counts = manifest.count_by_class("train" if has_parts else None)
    return counts, " in train" if has_parts else ""


def _aspect(look: Look) -> float:
    return max(look.width, look.height) / min(look.width, look.height)


def _is_grey(look: Look) -> bool:
    """By its pixels: many a grey picture is stored as RGB."""
    spread = max(np.ptp(look.mean), np.ptp(look.std))
    return bool(spread < 0.002)


def _plain(format_name: str) -> str:
    return _SAME_FORMAT.get(format_name, format_name)


def _percent(share: float) -> str:
    """`93 %`, `all`; rounded down, but never to 0 or up to 100."""
    percent = 100 * share + 1e-9  # 1 - 0.9 is a little less than a tenth
    if share == 1:
        return "all"
    if percent > 99.9:
        return "over 99.9 %"
    if percent < 0.1:
        return "under 0.1 %"
    digits = 0 if 1 <= percent <= 99 else 1
    return f"{math.floor(percent * 10**digits) / 10**digits:.{digits}f} %"
