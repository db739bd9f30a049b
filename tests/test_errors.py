from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark import errors
from fieldmark.errors import FieldmarkError, ModelError, RecipeError, check_choice, closest


def test_a_message_says_problem_given_valid_and_what_to_do_in_that_order() -> None:
    error = FieldmarkError(
        "no such network", given="resnet19", valid=["resnet18", "vgg16"], fix="choose one"
    )
    assert str(error).splitlines() == [
        "no such network",
        "  given:  resnet19",
        "  valid:  resnet18, vgg16",
        "  do:     choose one",
    ]
    assert error.problem == "no such network"


def test_parts_that_say_nothing_are_left_out_but_zero_is_shown() -> None:
    assert str(FieldmarkError("it broke")) == "it broke"
    assert "given:  0" in str(FieldmarkError("too few", given=0))


def test_every_error_is_caught_as_one_family_and_as_value_error() -> None:
    family = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(family) >= 7
    assert all(issubclass(kind, FieldmarkError) and issubclass(kind, ValueError) for kind in family)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("resnet19", "resnet18"),
        ("ResNet18", "resnet18"),
        ("vgg-16", "vgg16"),
        ("banana", None),
        ("", None),
    ],
)
def test_closest_forgives_a_slip_and_not_another_word(word: str, expected: str | None) -> None:
    assert closest(word, ["resnet18", "vgg16"]) == expected


@given(st.text(), st.lists(st.text(), max_size=5))
def test_closest_only_ever_suggests_a_valid_word(word: str, valid: list[str]) -> None:
    suggestion = closest(word, valid)
    assert suggestion is None or suggestion in valid


def test_check_choice_lists_the_valid_words_and_suggests_the_nearest() -> None:
    with pytest.raises(ModelError) as caught:
        check_choice("optimizer", "adamv", ["sgd", "adam", "adamw"], error=ModelError)
    text = str(caught.value)
    assert text.startswith("unknown optimizer")
    assert "given:  'adamv'" in text
    assert "valid:  sgd, adam, adamw" in text
    assert "did you mean 'adam'" in text  # adam or adamw, both one letter away


def test_check_choice_without_a_near_word_says_what_to_choose_from() -> None:
    with pytest.raises(RecipeError, match="take one of the valid words"):
        check_choice("optimizer", "zzz", ["sgd", "adam"])


def test_check_choice_tells_true_from_one_and_1_from_1_0() -> None:
    check_choice("channels", 1, [1, 3])
    for impostor in (True, 1.0, "1"):
        with pytest.raises(RecipeError):
            check_choice("channels", impostor, [1, 3])
