"""Contact sheets of training pictures: what the network is shown, and what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldmark import report
from fieldmark.assembly.network import settle_for
from fieldmark.data.sources.scan import scan
from fieldmark.recipe import Recipe
from fieldmark.report import write_source_sheet

Sheet = tuple[list[np.ndarray], list[str]]


@pytest.fixture
def sheet(tmp_path: Path, make_pictures: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`sheet(mixup=1.0)` -> pictures and captions of an augmented sheet of two classes."""
    folder = make_pictures(tmp_path / "photos", {"ant": 12, "bee": 12}, size=40)
    drawn: list[Sheet] = []
    monkeypatch.setattr(
        report,
        "draw_contact_sheet",
        lambda pictures, captions, path, title: drawn.append((pictures, captions)),
    )

    def draw(**augment: Any) -> Sheet:
        words = {f"augment.{word}": value for word, value in augment.items()}
        recipe = Recipe(source=str(folder)).with_settings({"data.size": 32, **words})
        manifest = scan(folder)
        recipe, _ = settle_for(recipe, manifest)
        left_out = write_source_sheet(tmp_path / "s.png", manifest, recipe, num=20, augmented=True)
        assert left_out == ()
        return drawn[-1]

    return draw


def test_captions_of_mixed_pictures_name_both_labels_with_their_shares(sheet: Any) -> None:
    pictures, captions = sheet(preset="none", mixup=1.0)
    assert len(pictures) == len(captions) == 20
    mixed = [caption.split("\n") for caption in captions if "\n" in caption]
    assert mixed
    for heavier, lighter in mixed:
        shares = [int(line.split("%")[0]) for line in (heavier, lighter)]
        assert sum(shares) in (99, 100, 101)
        assert shares[0] >= shares[1] >= 1
        assert {line.split("% ")[1] for line in (heavier, lighter)} == {"ant", "bee"}
    alone = [caption for caption in captions if "\n" not in caption]
    assert set(alone) <= {"ant", "bee"}  # mixed with its own kind
    assert len({tuple(sorted(lines)) for lines in mixed}) > 2  # several shares on one sheet


def test_captions_of_unmixed_pictures_are_their_labels(sheet: Any) -> None:
    pictures, captions = sheet(preset="standard")
    assert set(captions) == {"ant", "bee"}
    assert all(picture.shape == (32, 32, 3) for picture in pictures)


def test_the_pictures_are_the_colours_they_were_and_not_normalised(sheet: Any) -> None:
    pictures, captions = sheet(preset="none")
    means = {name: [] for name in ("ant", "bee")}
    for picture, caption in zip(pictures, captions, strict=True):
        means[caption].append(picture.reshape(-1, 3).mean(axis=0))
    for values in means.values():
        assert np.std(values, axis=0).max() < 5  # a class has one colour beneath its noise
    assert np.abs(np.mean(means["ant"], axis=0) - np.mean(means["bee"], axis=0)).max() > 10
