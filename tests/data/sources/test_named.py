"""Data sets known by name."""

from __future__ import annotations

import numpy as np
import pytest

from fieldmark.data.sources.named import NAMED_SOURCES, load_named
from fieldmark.errors import SourceError


def test_digits_are_those_of_scikit_learn_on_the_usual_scale() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    ours = load_named("digits")
    assert ours.images.shape == (1797, 8, 8)
    assert ours.images.dtype == np.uint8
    assert ours.class_names == tuple("0123456789")
    assert [int(label) for label in ours.labels] == digits.target.tolist()
    assert (ours.images.min(), ours.images.max()) == (0, 255)
    np.testing.assert_allclose(ours.images / 255, digits.images / 16, atol=0.5 / 255 + 1e-9)


def test_loaded_once_and_safe_from_changes() -> None:
    images = load_named("digits").images
    assert load_named("digits").images is images
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0] = 1


def test_unknown_name_is_met_with_a_suggestion() -> None:
    with pytest.raises(SourceError, match="did you mean 'digits'"):
        load_named("digit")


def test_every_line_of_the_table_keeps_its_promises() -> None:
    for name, source in NAMED_SOURCES.items():
        pictures = load_named(name)
        assert source.about
        assert len(pictures.images) == len(pictures.labels)
        assert set(pictures.labels) == set(pictures.class_names)
