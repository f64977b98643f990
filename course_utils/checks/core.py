"""Judge a learner's function on fresh random cases and say what is likely wrong.

An exercise is a reference solution, a maker of random cases, and the mistakes people make, each written out as the
function it amounts to: if the answer agrees with a mistake on every case, its message is the verdict; with several,
that of the nearest.
"""

from __future__ import annotations

import copy
import html
import importlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from course_utils.checks.compare import (
    all_close,
    describe_difference,
    explain_exception,
    first_complaint,
    is_stub,
    largest_gap,
    same_arguments,
)

CASES = 5  # enough to meet different batch sizes, steps and shapes, and still instant


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is right, what is asked, what tends to go wrong.

    reference(*args) -> right answer, or None where many answers are right and `examine` alone judges;
    cases(generator, i) -> tuple of arguments of case i; mistakes: (message, function(*args)) pairs, likeliest first;
    hints: three, of rising strength; tolerance: relative and absolute; examine(answer, args) -> a complaint or None,
    run on every case after the comparison; slips: (words, message) pairs, said where an exception holds the words.
    """

    reference: Callable | None
    cases: Callable[[torch.Generator, int], tuple]
    hints: tuple[str, str, str]
    mistakes: tuple[tuple[str, Callable], ...] = ()
    tolerance: float = 1e-4
    examine: Callable[[Callable, tuple], str | None] | None = None
    slips: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What `check` or `hint` has to say; prints as text, and as a coloured bar in a notebook; true if right."""

    status: str  # "right", "not right yet", "not solved yet", "hint"
    text: str

    def __bool__(self) -> bool:
        return self.status == "right"

    def __repr__(self) -> str:
        return f"{self.status}: {self.text}" if self.status != "hint" else self.text

    def _repr_html_(self) -> str:
        # a coloured bar and the page's own text colour: legible on light and dark themes
        color = {"right": "#009E73", "not right yet": "#D55E00", "hint": "#56B4E9"}.get(self.status, "#E69F00")
        return (
            f'<div style="border-left: 5px solid {color}; padding: 0.2em 0.8em">'
            f"<b>{self.status}</b>: {html.escape(self.text)}</div>"
        )


def check(name: str, answer: Callable, seed: int | None = None) -> Verdict:
    """Try `answer` on fresh random cases of the exercise called `name`, such as "01-closed-form".

    seed: repeats the cases of an earlier verdict. Never raises on a wrong answer. Built in notebook 00.
    """
    exercise = _find(name)
    if isinstance(exercise, Verdict):
        return exercise
    if not callable(answer):
        return Verdict(
            "not solved yet", f'pass the function itself, not what it returns: check("{name}", my_function).'
        )
    seed = secrets.randbelow(10_000) if seed is None else seed
    with torch.random.fork_rng(devices=[]):  # whatever the answer draws, the notebook's own numbers stay the same
        status, text = _judge(exercise, answer, seed)
    if status == "not right yet":
        text += f' (The same cases again: check("{name}", ..., seed={seed}).)'
    return Verdict(status, text)


def hint(name: str, n: int = 1) -> Verdict:
    """Hint n of an exercise: 1 points, 2 explains, 3 nearly gives the line away."""
    exercise = _find(name)
    if isinstance(exercise, Verdict):
        return exercise
    if n not in (1, 2, 3):
        return Verdict("hint", f'There are three hints: hint("{name}", 1), 2 and 3.')
    more = f' Stronger: hint("{name}", {n + 1}).' if n < 3 else ""
    return Verdict("hint", f"hint {n} of 3: {exercise.hints[n - 1]}{more}")


def _find(name: str) -> Exercise | Verdict:
    """Look an exercise up in `nbNN.py`; a Verdict that lists the known ones if there is none."""
    number = str(name)[:2]
    try:
        module = importlib.import_module(f"course_utils.checks.nb{number}")
    except ModuleNotFoundError:
        return Verdict("not solved yet", f'no notebook {number} has exercises; names look like "01-closed-form".')
    if name not in module.EXERCISES:
        return Verdict("not solved yet", f'no exercise is called "{name}"; there are {", ".join(module.EXERCISES)}.')
    return module.EXERCISES[name]


def _judge(exercise: Exercise, answer: Callable, seed: int) -> tuple[str, str]:
    """Run every case; return (status, text)."""
    generator = torch.Generator().manual_seed(seed)
    cases, outputs = [exercise.cases(generator, i) for i in range(CASES)], []
    try:
        for args in cases:
            given = copy_arguments(args)
            outputs.append(answer(*given))
            if outputs[-1] is None or outputs[-1] is ...:
                return "not solved yet", "the function returns nothing: does its last line begin with `return`?"
            if not same_arguments(args, given):
                return "not right yet", "the function changes its input in place; write x = x + ..., not x += ...."
        complaint = _compare(exercise, answer, cases, outputs)
        for args in cases if exercise.examine else ():
            complaint = complaint or exercise.examine(answer, copy_arguments(args))
    except Exception as error:  # a learner's mistake of any kind: it is told in one sentence
        if is_stub(error, answer):
            return "not solved yet", "replace the line with NotImplementedError by your own, then run both cells again."
        for words, message in exercise.slips:
            if words in str(error):
                return "not right yet", message
        return "not right yet", explain_exception(error, answer)
    return ("not right yet", complaint) if complaint else ("right", f"{CASES} fresh random cases agree.")


def _compare(exercise: Exercise, answer: Callable, cases: list[tuple], outputs: list) -> str | None:
    """The first complaint about the outputs, or None: known mistakes first, then what the numbers show."""
    if exercise.reference is None:
        return None
    agree = partial(all_close, tolerance=exercise.tolerance)
    expected = [exercise.reference(*copy_arguments(args)) for args in cases]
    again = [answer(*copy_arguments(args)) for args in cases]
    if not first_complaint(outputs, expected, exercise.tolerance) and not all_close(again, outputs, 1e-5):
        return "the same arguments give something else each time: does the function draw random numbers of its own?"
    if agree(outputs, expected):
        return None
    fits = []
    for message, mistake in exercise.mistakes:
        wrong = [mistake(*copy_arguments(args)) for args in cases]
        if agree(outputs, wrong) and not agree(wrong, expected):
            fits.append((round(largest_gap(outputs, wrong) / exercise.tolerance, 1), message))
    if fits:
        return min(fits, key=lambda fit: fit[0])[1]  # of equally near ones the first: the likeliest
    return first_complaint(outputs, expected, exercise.tolerance) or describe_difference(
        outputs, expected, exercise.tolerance
    )


def copy_arguments(args: tuple) -> tuple:
    """Fresh copies of the arguments, so that no call can see what another did to them."""
    return tuple(
        torch.Generator().set_state(a.get_state()) if isinstance(a, torch.Generator) else copy.deepcopy(a) for a in args
    )
