"""What can go wrong through no fault of the program, and the checks of what a caller asks for: one sentence each."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection

STEPS = (1, 1000)  # the networks are trained on 1000 steps
GUIDANCE = (0.0, 20.0)  # beyond, pictures only burn out
SEED = (0, 2**32 - 1)
PROMPT_LENGTH = 1000  # characters; text encoders read 77 tokens at most


class CourseError(Exception):
    """Something a user can put right: its message is one sentence that says how."""


class InputError(CourseError, ValueError):
    """Something asked for cannot be; the message says what can."""


class DataError(CourseError, RuntimeError):
    """Something is wrong with the data or with what was asked of it; the message says what to do."""


class CheckpointError(CourseError, RuntimeError):
    """Something is wrong with a checkpoint; the message says what, and what to do."""


def printable(text: str) -> str:
    """A text that fits one line and any terminal: what cannot be shown, a line's end too, as question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def integer(what: str, value: object, limits: tuple[int, int]) -> int:
    """The value as an int, if it is a whole number within the limits, both included; else InputError.

    NumPy's and PyTorch's integers count, truth values do not.
    """
    low, high = limits
    truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    try:
        result = None if truth else operator.index(value)
    except (TypeError, ValueError):
        result = None
    if result is None or not low <= result <= high:
        raise InputError(f"{what} must be a whole number from {low} to {high}, not {value!r}")
    return result


def number(what: str, value: object, limits: tuple[float, float], above: bool = False) -> float:
    """The value as a float, if it lies within the limits (above: strictly over the lower one); else InputError."""
    low, high = limits
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (above and value == low):
        raise InputError(
            f"{what} must be a number {'above' if above else 'from'} {low:g} "
            f"{'and at most' if above else 'to'} {high:g}, not {value!r}"
        )
    return float(value)


def one_of(what: str, value: object, choices: Collection[str]) -> str:
    """The value itself, if it is one of the choices; else InputError, which names them."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"unknown {what} {value!r}: choose one of {', '.join(choices) or '(none yet)'}")
    return value


def prompt_text(value: object) -> str:
    """The prompt without spaces around it; InputError when it is no text, empty or too long."""
    if not isinstance(value, str):
        raise InputError(f"a prompt is text in quotes, not {type(value).__name__} ({value!r})")
    text = value.strip()
    if not text:
        raise InputError('the prompt is empty: write what to draw, such as "pink butterfly"')
    if len(text) > PROMPT_LENGTH:
        raise InputError(f"the prompt has {len(text)} characters: at most {PROMPT_LENGTH} are read, shorten it")
    return text
