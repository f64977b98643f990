"""The exercise of notebook 00: how exercises work, on a formula that notebook 01 explains."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise


def alpha_bar_case(g: torch.Generator, i: int) -> tuple:
    """(alpha_bar,): the falling table of a schedule of 10 to 50 steps, float64 like every coefficient of the course."""
    steps = 10 * (i + 1)
    beta = (torch.rand(steps, generator=g, dtype=torch.float64) * 0.2 + 0.01).sort().values
    return (torch.cumprod(1 - beta * 0.3, 0),)


SNR = Exercise(
    reference=lambda a: torch.log(a) - torch.log1p(-a),
    cases=alpha_bar_case,
    tolerance=1e-5,
    mistakes=(
        ("this is the ratio itself; its natural logarithm is asked.", lambda a: a / (1 - a)),
        (
            "right up to sign: signal stands above noise, so a clean picture has a large value.",
            lambda a: torch.log((1 - a) / a),
        ),
        (
            "half of what is asked: the ratio of amplitudes; SNR is a ratio of powers.",
            lambda a: 0.5 * torch.log(a / (1 - a)),
        ),
        ("this is log10; the natural logarithm is torch.log.", lambda a: torch.log10(a / (1 - a))),
        ("this is log2; the natural logarithm is torch.log.", lambda a: torch.log2(a / (1 - a))),
        ("these are decibels, 10 * log10; the natural logarithm is asked.", lambda a: 10 * torch.log10(a / (1 - a))),
        ("this is the logarithm of the signal alone: divide by the noise power 1 - alpha_bar.", torch.log),
        ("this is the logarithm of the noise alone: the signal stands above it.", lambda a: torch.log(1 - a)),
        (
            "this divides two logarithms; the logarithm of the quotient is asked, which is their difference.",
            lambda a: torch.log(a) / torch.log(1 - a),
        ),
        (
            "the logarithm of a quotient is a difference: log(alpha_bar) - log(1 - alpha_bar).",
            lambda a: torch.log(a) + torch.log(1 - a),
        ),
    ),
    hints=(
        "How much power has the picture in xt, and how much the noise?",
        "The powers are alpha_bar and 1 - alpha_bar; SNR is their ratio.",
        "The quotient of the two, in torch.log: one line.",
    ),
)


EXERCISES = {"00-snr": SNR}
