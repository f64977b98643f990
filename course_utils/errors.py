"""What can go wrong through no fault of the program, and the checks of what a caller asks for: one sentence each."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

STEPS = (1, 1000)  # the networks are trained on 1000 steps
GUIDANCE = (0.0, 20.0)  # beyond, pictures only burn out
SEED = (0, 2**32 - 1)
PROMPT_LENGTH = 1000  # characters; text encoders read 77 tokens at most


class CourseError(Exception):
    """Something a user can put right: its message is one sentence that says how."""


class InputError(CourseError, ValueError):
    """Something asked for cannot be; the message says what can."""


class PromptWarning(UserWarning):
    """Something in a prompt will not be drawn as it says; the message names it, and what comes nearest."""


warnings.filterwarnings("always", category=PromptWarning, append=True)  # at every call, unless the user filters it


@contextmanager
def prompt_notes(tell: Callable[[str], None]) -> Iterator[None]:
    """Within: what a PromptWarning says goes to tell(sentence) as soon as it is known; other warnings as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptWarning)
        show = warnings.showwarning

        def told(message, category, *place, **more):
            tell(str(message)) if issubclass(category, PromptWarning) else show(message, category, *place, **more)

        warnings.showwarning = told
        yield


class DataError(CourseError, RuntimeError):
    """Something is wrong with the data or with what was asked of it; the message says what to do."""


class CheckpointError(CourseError, RuntimeError):
    """Something is wrong with a checkpoint; the message says what, and what to do."""


def plain(value: object) -> object:
    """A single NumPy or PyTorch value as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def printable(text: str) -> str:
    """A text that fits one line and any terminal: what cannot be shown, a line's end too, as question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def file_name(text: str) -> str:
    """A text as the name of a file, without its ending: letters and digits of any script, "pictures" if it has none."""
    words = re.sub(r"\W+", " ", text).strip()
    return words.encode()[:120].decode(errors="ignore").strip() or "pictures"  # a name may have 255 bytes


def integer(what: str, value: object, limits: tuple[int, int]) -> int:
    """The value as an int, if it is a whole number within the limits, both included; else InputError.

    NumPy's and PyTorch's integers count, truth values do not.
    """
    low, high = limits
    try:
        result = None if isinstance(plain(value), bool) else operator.index(plain(value))
    except (TypeError, ValueError):
        result = None
    if result is None or not low <= result <= high:
        raise InputError(f"{what} must be a whole number from {low} to {high}, not {value!r}")
    return result


def number(what: str, value: object, limits: tuple[float, float], above: bool = False) -> float:
    """The value as a float, if it lies within the limits (above: strictly over the lower one); else InputError.

    NumPy's and PyTorch's numbers count, truth values do not.
    """
    low, high = limits
    result = plain(value)
    good = isinstance(result, (int, float)) and not isinstance(result, bool) and math.isfinite(result)
    if not good or not low <= result <= high or (above and result == low):
        raise InputError(
            f"{what} must be a number {'above' if above else 'from'} {low:g} "
            f"{'and at most' if above else 'to'} {high:g}, not {value!r}"
        )
    return float(result)


def one_of(what: str, value: object, choices: Collection[str]) -> str:
    """The value itself, if it is one of the choices; else InputError, which names them."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"unknown {what} {value!r}: choose one of {', '.join(choices) or '(none yet)'}")
    return value


def utf8(text: str) -> str:
    """The text itself, if it can be written as UTF-8; InputError for one with stray bytes of another encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "the prompt holds bytes that are no UTF-8: type it again, or set the terminal to UTF-8"
        ) from None
    return text


def prompt_text(value: object) -> str:
    """The prompt without spaces around it; InputError when it is no text, empty or too long."""
    if not isinstance(value, str):
        raise InputError(f"a prompt is text in quotes, not {type(value).__name__} ({value!r})")
    text = utf8(value).strip()
    if not text:
        raise InputError('the prompt is empty: write what to draw, such as "pink butterfly"')
    if len(text) > PROMPT_LENGTH:
        raise InputError(f"the prompt has {len(text)} characters: at most {PROMPT_LENGTH} are read, shorten it")
    return text


def prompt_list(prompts: object, count: int | None = None, what: str = "prompt") -> list[str]:
    """The prompts as a list of texts, one text standing for a list of one; InputError for what is no text.

    count: how many there must be; a single one is repeated.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, Iterable) else None
    if not texts:
        raise InputError(f"give at least one {what}, a text or a list of texts, not {prompts!r}")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a {what} is text in quotes, not {type(text).__name__} ({text!r:.60})")
        utf8(text)
    if count is not None and len(texts) not in (1, count):
        raise InputError(f"give one {what}, or {count}, one for each picture, not {len(texts)}")
    return texts * count if count is not None and len(texts) == 1 else texts
