from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.errors import CheckpointError
from fieldmark.types import PARTS, Estimate, Prediction, Preprocess, Sample

GREY = Preprocess(size=28, channels=1, mean=(0.286,), std=(0.353,))


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    channels = draw(st.sampled_from((1, 3)))
    numbers = st.floats(-10, 10)
    positive = st.floats(1e-6, 10)
    return Preprocess(
        size=draw(st.integers(1, 8192)),
        channels=channels,
        mean=tuple(draw(st.lists(numbers, min_size=channels, max_size=channels))),
        std=tuple(draw(st.lists(positive, min_size=channels, max_size=channels))),
        resize=draw(st.sampled_from(("crop", "squash"))),
        crop_fraction=draw(st.floats(0.01, 1)),
        interpolation=draw(st.sampled_from(("bilinear", "bicubic"))),
        channel_order=draw(st.sampled_from(("rgb", "bgr") if channels == 3 else ("rgb",))),
    )


@given(preprocesses())
def test_preprocess_survives_json_unchanged(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 8193},
        {"channels": 2, "mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"channels": 3},
        {"mean": (math.nan,)},
        {"std": (0.0,)},
        {"std": (-1.0,)},
        {"std": (math.inf,)},
        {"crop_fraction": 0.0},
        {"crop_fraction": 1.01},
        {"crop_fraction": math.nan},
        {"channel_order": "bgr"},  # of one channel
    ],
)
def test_a_preprocess_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="makes no sense") as caught:
        dataclasses.replace(GREY, **change)
    assert "a positive std for each channel" in str(caught.value)
    assert "bgr with 3 channels only" in str(caught.value)


@pytest.mark.parametrize("field", ["resize", "interpolation", "channel_order"])
def test_an_unknown_word_in_a_preprocess_is_refused(field: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown {field}"):
        Preprocess.from_dict(GREY.to_dict() | {field: "stretch"})


@given(
    st.sampled_from([field.name for field in dataclasses.fields(Preprocess)]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_a_damaged_model_file_gives_an_error_for_people_or_a_working_preprocess(
    field: str, damage: object
) -> None:
    try:
        preprocess = Preprocess.from_dict(GREY.to_dict() | {field: damage})
    except CheckpointError:
        return
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize("preprocess", [GREY, Preprocess(8, 3, (0.5,) * 3, (0.2,) * 3)])
def test_a_preprocess_written_before_there_was_an_order_is_rgb(preprocess: Preprocess) -> None:
    values = preprocess.to_dict()
    assert values.pop("channel_order") == "rgb"
    assert Preprocess.from_dict(values) == preprocess


@pytest.mark.parametrize("values", [{}, {"size": 28}, GREY.to_dict() | {"gamma": 2}, [1, 2]])
def test_a_preprocess_of_another_version_is_told_so(values: Any) -> None:
    with pytest.raises(CheckpointError, match="as this version does"):
        Preprocess.from_dict(values)


def test_words_are_immutable() -> None:
    for word in (Sample("a.jpg", "ant", "train"), GREY, Estimate(0.5, 0.4, 0.6, 10)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(word, dataclasses.fields(word)[0].name, "other")


def test_a_sample_has_no_part_before_the_split() -> None:
    assert Sample("a.jpg", "ant").part == ""
    assert PARTS == ("train", "val", "test")


def test_an_estimate_never_shows_a_value_without_its_interval_and_count() -> None:
    assert str(Estimate(0.9412, 0.8912, 0.97, 153)) == "0.941 (0.891-0.970, n=153)"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 25))
def test_top_gives_the_likeliest_first_each_class_once(probabilities: list[float], k: int) -> None:
    names = tuple(f"class {index}" for index in range(len(probabilities)))
    prediction = Prediction("a.jpg", names, tuple(probabilities))
    top = prediction.top(k)
    assert len(top) == min(k, len(names))
    assert len({name for name, _ in top}) == len(top)
    assert [p for _, p in top] == sorted(probabilities, reverse=True)[:k]
    assert prediction.label == top[0][0] == names[probabilities.index(max(probabilities))]


def test_a_picture_that_could_not_be_read_has_no_label_and_no_top() -> None:
    prediction = Prediction("a.jpg", error="not a picture")
    assert prediction.label is None
    assert prediction.top(3) == []
