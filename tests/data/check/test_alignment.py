"""Small pictures laid onto each other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fieldmark.data.check.alignment import aligned_likeness, details_of, halved, unit_rows
from support.photos import photo


def thumb(picture: Image.Image) -> np.ndarray:
    small = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32)


def test_details_are_the_laplacian() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    wanted = [-ndimage.laplace(x)[1:-1, 1:-1] for x in pixels]
    assert details_of(pixels) == pytest.approx(np.stack(wanted), abs=1e-5)


def test_products_of_unit_rows_are_correlations() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 4, 4)).astype(np.float32)
    units = unit_rows(rows)
    assert units @ units.T == pytest.approx(np.corrcoef(rows.reshape(5, -1)), abs=1e-5)
    flat = np.full((1, 4, 4), 7, np.float32)
    assert not unit_rows(flat).any()  # no division by zero


def test_halving_averages() -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert halved(pixels)[0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_a_crop_or_a_turn_is_undone_and_another_picture_is_not_made_alike() -> None:
    seeds = range(20)
    whole = np.stack([thumb(photo(s)) for s in seeds])
    crops = np.stack([thumb(photo(s).crop((12, 6, 228, 174))) for s in seeds])
    turned = np.stack([thumb(photo(s).rotate(2, Image.Resampling.BICUBIC)) for s in seeds])
    others = np.stack([thumb(photo(s + 100)) for s in seeds])
    assert np.median(aligned_likeness(whole, crops)) > 0.9
    assert aligned_likeness(whole, crops).min() > 0.8
    assert np.median(aligned_likeness(whole, turned)) > 0.85
    assert aligned_likeness(whole, others).max() < 0.5
    unmoved = (unit_rows(details_of(whole)) * unit_rows(details_of(crops))).sum(1)
    assert np.median(unmoved) < 0.5  # it is the alignment that finds them


def test_which_of_a_pair_comes_first_makes_no_difference() -> None:
    a = np.stack([thumb(photo(s)) for s in range(6)])
    b = np.stack([thumb(photo(s).crop((9, 9, 231, 171))) for s in range(6)])
    assert aligned_likeness(a, b) == pytest.approx(aligned_likeness(b, a), abs=1e-6)


def test_flat_pictures_are_like_nothing_and_raise_nothing() -> None:
    flat = np.full((2, 32, 32), 50, np.float32)
    assert aligned_likeness(flat, flat).max() <= 0
    assert aligned_likeness(flat[:0], flat[:0]).shape == (0,)
