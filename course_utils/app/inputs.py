"""What a user may ask for, checked in one place: each wrong input gets one sentence that says what to do."""
from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

STEPS = (1, 1000)  # the networks are trained on 1000 steps
COUNT = (1, 64)  # pictures at a time: more do not fit a screen
GUIDANCE = (0.0, 20.0)  # beyond, pictures only burn out
SEED = (0, 2**32 - 1)
MINUTES = (0.0, 10_080.0)  # a week
PROMPTS = (1, 400)  # to be measured on: more take minutes and change little
PROMPT_LENGTH = 1000  # characters; text encoders read 77 tokens at most
PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp")


class InputError(ValueError):
    """Something asked for cannot be; the message says what can."""


def whole_number(what: str, value: object, limits: tuple[int, int]) -> int:
    """The value itself, if it is an integer within the limits, both included; else InputError."""
    low, high = limits
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{what} must be a whole number from {low} to {high}, not {value!r}")
    return value


def number(what: str, value: object, limits: tuple[float, float], above: bool = False) -> float:
    """The value as a float, if it lies within the limits (above: strictly over the lower one); else InputError."""
    low, high = limits
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (above and value == low):
        raise InputError(f"{what} must be a number {'above' if above else 'from'} {low:g} "
                         f"{'and at most' if above else 'to'} {high:g}, not {value!r}")
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


def picture_file(value: str | Path) -> Path:
    """A path to write a picture to, if its folder exists and its ending is known; else InputError."""
    path = Path(value)
    if path.suffix.lower() not in PICTURE_TYPES:
        raise InputError(f"{path.name!r} does not end like a picture: use one of {', '.join(PICTURE_TYPES)}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first, or name another")
    return path
