"""The checks of what a caller asks for: what is right comes back in its own type, the rest gets one sentence."""

import math

import numpy as np
import pytest
import torch

from course_utils.errors import CourseError, InputError, integer, number, one_of, prompt_text


def refused(check, *arguments, **options):
    """The one sentence with which a check refuses."""
    with pytest.raises(InputError) as caught:
        check(*arguments, **options)
    assert isinstance(caught.value, (CourseError, ValueError)) and "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ whole numbers
@pytest.mark.parametrize("value", [1, 7, 10, np.int64(7), np.uint8(10), torch.tensor(7)])
def test_whole_numbers_within_the_limits_become_ints(value):
    result = integer("steps", value, (1, 10))
    assert result == int(value) and type(result) is int


@pytest.mark.parametrize(
    "value",
    [0, 11, -1, 2.0, 2.5, "7", None, True, np.bool_(True), torch.tensor(True), math.nan, [7], torch.tensor([1, 2])],
    ids=repr,
)
def test_everything_else_is_no_whole_number(value):
    said = refused(integer, "steps", value, (1, 10))
    assert said == f"steps must be a whole number from 1 to 10, not {value!r}"


# ------------------------------------------------------------------ numbers
@pytest.mark.parametrize("value", [0, 1, 0.25, np.float64(0.5)])
def test_numbers_within_the_limits_become_floats(value):
    result = number("strength", value, (0, 1))
    assert result == value and type(result) is float


@pytest.mark.parametrize("value", [-1e-9, 1.01, math.nan, math.inf, -math.inf, "0.5", None, True, 1j, [0.5]], ids=repr)
def test_everything_else_is_no_number(value):
    said = refused(number, "strength", value, (0, 1))
    assert said == f"strength must be a number from 0 to 1, not {value!r}"


def test_a_number_above_a_limit_is_not_that_limit():
    assert number("minutes", 1e-9, (0, 60), above=True) == 1e-9 and number("minutes", 60, (0, 60), above=True) == 60
    assert number("minutes", 0, (0, 60)) == 0
    assert refused(number, "minutes", 0, (0, 60), above=True) == (
        "minutes must be a number above 0 and at most 60, not 0"
    )


# ------------------------------------------------------------------ one of several
def test_a_choice_comes_back_as_it_is():
    assert one_of("style", "noto", ("noto", "blob")) == "noto"
    assert one_of("style", "noto", {"noto": 1}) == "noto"


@pytest.mark.parametrize("value", ["Noto", "", None, 1, ["noto"]], ids=repr)
def test_the_choices_are_named_where_there_is_no_such_one(value):
    assert refused(one_of, "style", value, ("noto", "blob")) == f"unknown style {value!r}: choose one of noto, blob"


def test_nothing_to_choose_from_is_said():
    assert "(none yet)" in refused(one_of, "style", "noto", ())


# ------------------------------------------------------------------ prompts
def test_a_prompt_loses_the_spaces_around_it():
    assert prompt_text("  pink butterfly\n") == "pink butterfly" and prompt_text("粉色的蝴蝶") == "粉色的蝴蝶"
    assert len(prompt_text("x" * 1000)) == 1000


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "empty"),
        (" \t\n", "empty"),
        ("x" * 1001, "1001 characters: at most 1000"),
        (None, "not NoneType"),
        (7, "not int"),
        (b"cat", "not bytes"),
        (["cat"], "not list"),
    ],
    ids=["empty", "blank", "long", "none", "number", "bytes", "list"],
)
def test_what_is_no_prompt_is_refused(value, words):
    assert words in refused(prompt_text, value)
