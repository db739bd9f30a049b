"""From a split manifest to pixel stores: what is measured, what leaves, what stops a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.auto import Facts, settle
from fieldmark.data.manifest import Manifest
from fieldmark.data.parts.split import split
from fieldmark.data.prepare import PreparedData, decode_exactly, draft_preprocess, prepare_data
from fieldmark.data.sources.scan import scan
from fieldmark.errors import RecipeError, SourceError
from fieldmark.progress import Silent
from fieldmark.recipe import Recipe
from fieldmark.runtime import open_runtime
from support.stores import load_exact

MakePictures = Callable[..., Path]
CPU = open_runtime("cpu")
FACTS = Facts(all_grey=False, typical_side_px=20, min_size_px=1, has_norm=True, num_train=20)


class Lines(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def settled(**words: Any) -> Recipe:
    return settle(Recipe().with_settings({"data.size": 16} | words), FACTS)[0]


@pytest.fixture
def manifest(tmp_path: Path, make_pictures: MakePictures) -> Manifest:
    """16 training, 2 validation and 2 test pictures of either class, 20 x 20 px."""
    source = scan(make_pictures(tmp_path / "photos", {"cat": 20, "dog": 20}, size=20))
    return split(source, val_fraction=0.1, test_fraction=0.1, seed=0)


def prepare(manifest: Manifest, **words: Any) -> PreparedData:
    return prepare_data(manifest, settled(**words), CPU, Silent())


def damage(manifest: Manifest, part: Any, label: str, number: int | None = None) -> list[str]:
    """Empty the files of the first `number` pictures of a class in a part."""
    chosen = [s.path for s in manifest.of_part(part) if s.label == label][:number]
    for path in chosen:
        Path(path).write_bytes(b"")
    return chosen


def test_each_part_has_its_pictures_in_the_manifests_order(manifest: Manifest) -> None:
    data = prepare(manifest)
    for part, store in (("train", data.train), ("val", data.val), ("test", data.test)):
        assert store.samples == manifest.of_part(part)  # type: ignore[arg-type]
        names = [data.manifest.class_names[number] for number in data.labels(store)]
        assert names == [sample.label for sample in store.samples]
    assert (len(data.train), len(data.val), len(data.test)) == (32, 4, 4)
    assert data.train.get(0).shape == (20, 20, 3)  # whole, for crops to be cut from
    for store in (data.val, data.test):
        expected = load_exact(store.samples[1].path, data.preprocess)
        np.testing.assert_array_equal(store.get(1), expected)


def test_without_random_crops_training_pictures_are_stored_as_evaluation_sees_them(
    manifest: Manifest,
) -> None:
    data = prepare(manifest, **{"augment.preset": "none"})
    expected = load_exact(data.train.samples[3].path, data.preprocess)
    np.testing.assert_array_equal(data.train.get(3), expected)


def test_unreadable_pictures_leave_with_their_reasons(manifest: Manifest) -> None:
    lost = [
        *damage(manifest, "train", "dog", 3),
        *damage(manifest, "val", "cat", 1),
        *damage(manifest, "test", "dog"),
    ]
    data = prepare(manifest)
    assert {item.path: item.reason for item in data.manifest.left_out} == dict.fromkeys(
        lost, "file is empty"
    )
    assert len(data.manifest.samples) == 40 - len(lost)
    assert (len(data.train), len(data.val), len(data.test)) == (29, 3, 2)
    kept = [s for store in (data.train, data.val, data.test) for s in store.samples]
    assert sorted(s.path for s in kept) == sorted(s.path for s in data.manifest.samples)
    assert data.manifest.class_names == ("cat", "dog")


def test_strict_stops_instead(manifest: Manifest) -> None:
    (lost,) = damage(manifest, "test", "dog", 1)
    with pytest.raises(SourceError, match="a picture cannot be read") as caught:
        prepare(manifest, **{"data.strict": True})
    assert lost in str(caught.value)


def test_a_class_without_a_readable_training_picture_stops_with_its_reasons(
    manifest: Manifest,
) -> None:
    damage(manifest, "train", "cat", 2)
    lost = damage(manifest, "train", "dog")
    with pytest.raises(SourceError, match="class 'dog' has no readable training picture") as caught:
        prepare(manifest)
    text = str(caught.value)
    assert f"{lost[0]} (file is empty)" in text
    assert "and 13 more" in text  # of the 16 dogs; the damaged cats are beside the point
    assert "take the class away" in text


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_without_a_readable_picture_stops(manifest: Manifest, part: str) -> None:
    damage(manifest, part, "cat")
    damage(manifest, part, "dog")
    with pytest.raises(SourceError, match=f"no picture can be read in the {part} part"):
        prepare(manifest)


def test_no_test_part_is_fine_where_the_source_has_none(
    tmp_path: Path, make_pictures: MakePictures
) -> None:
    make_pictures(tmp_path / "train", {"cat": 4, "dog": 4})
    make_pictures(tmp_path / "val", {"cat": 2, "dog": 2}, size=33)
    source = scan(tmp_path)
    manifest = split(source, val_fraction=0.1, test_fraction=0.1, seed=0, val_is_val=True)
    data = prepare(manifest)
    assert len(data.test) == 0
    assert len(data.val) == 4


# Mean and std ------------------------------------------------------------------------------------


def test_mean_and_std_are_measured_on_training_pictures_only(manifest: Manifest) -> None:
    plain = prepare(manifest)
    pixels = np.concatenate([plain.train.get(i).reshape(-1, 3) for i in range(32)]) / 255
    np.testing.assert_allclose(plain.preprocess.mean, pixels.mean(axis=0), atol=5.1e-5)
    np.testing.assert_allclose(plain.preprocess.std, pixels.std(axis=0), atol=5.1e-5)
    for part in ("val", "test"):
        for sample in manifest.of_part(part):  # type: ignore[arg-type]
            Image.new("RGB", (20, 20), "white").save(sample.path)
    assert prepare(manifest).preprocess == plain.preprocess


def test_a_given_mean_stays_and_only_the_rest_is_measured(manifest: Manifest) -> None:
    measured = prepare(manifest).preprocess
    given = prepare(manifest, **{"data.mean": [0.5, 0.4, 0.3]}).preprocess
    assert given == replace(measured, mean=(0.5, 0.4, 0.3))
    both = {"data.mean": [0.5] * 3, "data.std": [0.25] * 3}
    assert prepare(manifest, **both).preprocess == replace(
        measured, mean=(0.5,) * 3, std=(0.25,) * 3
    )


def test_grey_inputs_have_one_mean(manifest: Manifest) -> None:
    data = prepare(manifest, **{"data.channels": 1})
    assert data.train.get(0).shape == (20, 20, 1)
    assert len(data.preprocess.mean) == len(data.preprocess.std) == 1


@pytest.mark.parametrize("word", ["mean", "std"])
@pytest.mark.parametrize(("channels", "numbers"), [(3, [0.5]), (1, [0.5] * 3), (3, [0.5] * 4)])
def test_one_number_a_channel(word: str, channels: int, numbers: list[float]) -> None:
    recipe = settled(**{f"data.{word}": numbers, "data.channels": channels})
    with pytest.raises(RecipeError, match=f"data.{word} needs one number a channel") as caught:
        draft_preprocess(recipe)
    assert f"{channels} numbers" in str(caught.value)


def test_blue_first_is_for_colour_alone() -> None:
    recipe = settled(**{"data.channel_order": "bgr", "data.channels": 1})
    with pytest.raises(RecipeError, match="bgr is for pictures in colour") as caught:
        draft_preprocess(recipe)
    assert "data.channels = 1" in str(caught.value)
    assert "data.channel_order to rgb" in str(caught.value)


def test_the_preprocess_is_what_the_recipe_says() -> None:
    words = {
        "resize": "squash",
        "crop_fraction": 0.9,
        "interpolation": "bicubic",
        "size": 48,
        "channel_order": "bgr",
    }
    preprocess = draft_preprocess(settled(**{f"data.{key}": v for key, v in words.items()}))
    for word, value in words.items():
        assert getattr(preprocess, word) == value


# Evaluation --------------------------------------------------------------------------------------


def test_decode_exactly_takes_all_and_leaves_out_the_bad(manifest: Manifest) -> None:
    preprocess = prepare(manifest).preprocess
    lost = damage(manifest, "val", "dog", 1)
    store = decode_exactly(manifest, preprocess, CPU, Silent())
    assert len(store) == 39
    assert [item.path for item in store.left_out] == lost
    assert store.get(0).shape == (16, 16, 3)
    with pytest.raises(SourceError, match="cannot be read"):
        decode_exactly(manifest, preprocess, CPU, Silent(), strict=True)
