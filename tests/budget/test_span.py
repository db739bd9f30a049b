"""Time spans as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.budget.span import parse_budget
from fieldmark.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("90s", 90),
        ("1h30m", 5400),
        ("2h", 7200),
        ("600", 600),
        (" 1h 30m 5s ", 5405),
        ("1.5H", 5400),
        ("10 min", 600),
        ("0.5", 0.5),
        ("90d", None),
        ("2160h", 90 * 24 * 3600),
    ],
)
def test_spans(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(RecipeError):
            parse_budget(text)
    else:
        assert parse_budget(text) == seconds


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_whatever_is_written_in_parts_is_their_sum(hours: int, minutes: int, seconds: int) -> None:
    if hours + minutes + seconds:
        total = parse_budget(f"{hours}h{minutes}m{seconds}s")
        assert total == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0m",
        "-5m",
        "soon",
        "10 parsecs",
        "1h30",
        "5m10",
        "m",
        "1m1h",
        "1e3",
        "9" * 400,
        "nan",
        "inf",
        "١٠m",
        "2161h",
    ],
)
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_budget(text)
    message = str(caught.value)
    assert "this is no time that a training could take" in message
    assert "given:  budget = " in message
    assert "do:     for example --budget 10m" in message
    assert len(message) < 300
