"""What stands out from its own set, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from fieldmark.data.check.findings import Finding
from fieldmark.data.check.looks import Look, look_at
from fieldmark.data.check.oddities import (
    MAX_OUTLIERS,
    find_blank,
    find_class_sizes,
    find_odd_modes,
    find_odd_sizes,
    find_outliers,
    find_wrong_endings,
    modified_z,
    seen_of,
)
from fieldmark.data.manifest import Manifest
from fieldmark.errors import PictureError
from fieldmark.progress import Silent
from fieldmark.types import Sample
from support.photos import photo

Seen = list[tuple[Sample, Look]]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Look:
    path = tmp_path_factory.mktemp("usual") / "a.jpg"
    photo(1, 400, 300).save(path)
    (look,) = look_at([str(path)], Silent())
    assert isinstance(look, Look)
    return look


def some(look: Look, number: int, **words: object) -> Seen:
    changed = replace(look, **words)
    return [(Sample(f"{words}{i}.jpg", "ants"), changed) for i in range(number)]


def paths(findings: list[Finding]) -> list[str]:
    return [finding.path for finding in findings]


def test_of_the_ants_and_bees_the_stand_in_alone_is_blank(shared_data: Path) -> None:
    """Four real photos of ants on plain ground have more than 75 % of one colour."""
    files = sorted(map(str, (shared_data / "hymenoptera").glob("*/*/*")))
    seen = seen_of([Sample(path, "x") for path in files], look_at(files, Silent()))
    (found,) = find_blank(seen)
    assert Path(found.path).name == "imageNotFound.gif"
    assert found.detail == "92 % of its pixels have one colour"
    assert sum(look.one_colour > 0.75 for _, look in seen) == 4


def test_in_a_set_of_cut_outs_only_empty_pictures_are_blank(usual: Look) -> None:
    cut_outs, empty = some(usual, 30, one_colour=0.95), some(usual, 2, one_colour=1.0)
    found = find_blank([*some(usual, 70), *cut_outs, *empty])
    assert paths(found) == [sample.path for sample, _ in empty]
    assert found[0].detail == "all of its pixels have one colour"
    few = some(usual, 3, one_colour=0.95)
    assert paths(find_blank([*some(usual, 97), *few])) == [sample.path for sample, _ in few]


def test_a_line_in_a_small_picture_is_a_subject(usual: Look) -> None:
    assert find_blank(some(usual, 1, one_colour=0.95, width=40, height=40)) == []
    assert len(find_blank(some(usual, 1, one_colour=1.0, width=40, height=40))) == 1


@pytest.mark.parametrize(
    ("name", "file_format", "wrong"),
    [
        ("a.jpg", "JPEG", False),
        ("a.JPEG", "JPEG", False),
        ("a.jpg", "MPO", False),  # phones write it under that name
        ("a.tiff", "TIFF", False),
        ("a.bmp", "DIB", False),
        ("a", "PNG", False),  # promises nothing
        ("a.photo", "PNG", True),
        ("a.txt", "PNG", True),  # read here, passed over by programs that go by names
        ("film.0012", "PNG", False),
        ("5.2 m, from below", "PNG", False),
        ("a.jpg", "PNG", True),
        ("a.png", "WEBP", True),
        ("train-images-idx3-ubyte.png#4", "", False),  # inside a bundle
    ],
)
def test_endings(usual: Look, name: str, file_format: str, wrong: bool) -> None:
    look = replace(usual, format=file_format)
    found = find_wrong_endings([(Sample(name, "ants"), look)])
    assert bool(found) == wrong
    if wrong:
        assert found[0].detail == f"named {Path(name).suffix}, is a {file_format}"


def test_sizes_are_odd_beside_the_others(usual: Look) -> None:
    most = some(usual, 9)
    small = some(usual, 1, width=60, height=40)
    long = some(usual, 1, width=1200, height=300)
    found = find_odd_sizes([*most, *small, *long])
    assert [finding.detail for finding in found] == [
        "60x40 px; half of the pictures have a short side of 300 or more",
        "1200x300 px: 4.0 times as long as wide",
    ]
    assert find_odd_sizes(some(usual, 5, width=60, height=40)) == []
    assert find_odd_sizes(some(usual, 5, width=1200, height=300)) == []
    assert find_odd_sizes([]) == []


def test_modes_are_odd_beside_the_others(usual: Look) -> None:
    grey = {"mode": "L", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    odd = [
        *some(usual, 1, has_alpha=True, mode="RGBA"),
        *some(usual, 1, mode="CMYK"),
        *some(usual, 1, mode="I;16", bits=16, **{k: grey[k] for k in ("mean", "std")}),
        *some(usual, 1, **grey),
    ]
    found = find_odd_modes([*some(usual, 16), *odd])
    assert [finding.detail for finding in found] == [
        "transparent: laid over white",
        "CMYK, made for print: turned into RGB",
        "more than 8 bits a channel: the upper 8 are used; no colour, as only 10 % of the set",
        "no colour, as only 10 % of the set",
    ]
    assert find_odd_modes(some(usual, 8, mode="CMYK")) == []
    assert find_odd_modes([*some(usual, 5), *some(usual, 5, **grey)]) == []
    (colour,) = find_odd_modes([*some(usual, 1), *some(usual, 9, **grey)])
    assert colour.detail == "in colour, as only 10 % of the set"


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=30))
def test_scores_are_distances_in_robust_standard_deviations(values: list[float]) -> None:
    x = np.array(values)
    mad = median_abs_deviation(x, scale="normal")
    found = modified_z(x)
    if mad > 1e-6:
        assert found == pytest.approx((x - np.median(x)) / mad, rel=1e-3)
    else:
        assert np.isfinite(found).all()


def test_the_most_extreme_are_told_with_their_figures_and_no_more(usual: Look) -> None:
    rng = np.random.default_rng(0)

    def tinted(number: int, red: float) -> Seen:
        noise = rng.normal(0, 0.02, (number, 3))
        means = [tuple(np.array([red, 0.5, 0.5]) + row) for row in noise]
        looks = [replace(usual, mean=mean, contrast=0.2) for mean in means]
        return [(Sample(f"{red}-{i}.jpg", "ants"), look) for i, look in enumerate(looks)]

    assert find_outliers(tinted(200, 0.5)) == []
    found = find_outliers([*tinted(200, 0.5), *tinted(1, 1.0)])
    assert paths(found) == ["1.0-0.jpg"]
    assert found[0].detail.startswith("redness 0.2")
    assert "robust standard deviations above the median" in found[0].detail
    assert len(find_outliers([*tinted(300, 0.5), *tinted(60, 1.0)])) == MAX_OUTLIERS
    assert find_outliers([*tinted(20, 0.5), *tinted(1, 1.0)]) == []  # too few to know


def manifest_of(counts: dict[str, int], part: str = "") -> Manifest:
    samples = tuple(
        Sample(f"{name}{i}", name, part) for name, number in counts.items() for i in range(number)
    )
    return Manifest(samples, tuple(counts), (), (), all_grey=False, typical_side_px=100)


def test_class_sizes() -> None:
    assert find_class_sizes(manifest_of({"ants": 100, "bees": 20})) == []
    few, ratio = find_class_sizes(manifest_of({"ants": 100, "bees": 1}, "train"))
    assert few.detail == (
        "only 1 picture in train: it will be learnt badly, and figures on it will mean little"
    )
    assert (few.label, few.path) == ("bees", "")
    assert ratio.detail == "100 pictures of ants and 1 of bees in train: 100 to 1"


def test_what_cannot_be_read_is_in_no_statistic(usual: Look) -> None:
    samples = [Sample("a", "x"), Sample("b", "x")]
    assert seen_of(samples, [PictureError("truncated"), usual]) == [(samples[1], usual)]
