"""The exercises of notebook 01: destroying a picture a little at a time."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import MIX_MISTAKES, add_noise, per_picture, remove_noise
from course_utils.checks.nb01_training_example import TRAINING_EXAMPLE


def random_pictures(g: torch.Generator, i: int) -> torch.Tensor:
    """A batch of small pictures in [-1, 1], of another size in every case."""
    return torch.rand(2 + i, 3, 8, 8, generator=g) * 2 - 1


def random_alpha_bar(g: torch.Generator, count: int) -> torch.Tensor:
    """One alpha_bar per picture, away from 0 and 1, where no mistake shows."""
    return torch.rand(count, generator=g) * 0.85 + 0.1


def noising_case(g: torch.Generator, i: int) -> tuple:
    """(x0, eps, alpha_bar_t)."""
    x0 = random_pictures(g, i)
    return x0, torch.randn(x0.shape, generator=g), random_alpha_bar(g, len(x0))


def undo_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps, alpha_bar_t) of a picture that was really noised."""
    x0, eps, a = noising_case(g, i)
    return add_noise(x0, eps, a), eps, a


def beta_case(g: torch.Generator, i: int) -> tuple:
    """(beta,): a rising table of 10 to 50 steps, float64 like every coefficient of the course."""
    steps = 10 * (i + 1)
    return ((torch.rand(steps, generator=g, dtype=torch.float64) * 0.2 + 0.01).sort().values,)


def alpha_bar_case(g: torch.Generator, i: int) -> tuple:
    """(alpha_bar,): the running product of such a table."""
    return (torch.cumprod(1 - beta_case(g, i)[0] * 0.3, 0),)


def terminal(alpha_bar):
    """Shift and scale sqrt(alpha_bar): the last becomes 0, the first stays."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


CLOSED_FORM = Exercise(
    reference=add_noise,
    cases=noising_case,
    mistakes=MIX_MISTAKES,
    hints=(
        "Two terms are added: some of the picture and some of the noise.",
        "The two coefficients, squared, add up to 1; the picture's, squared, is alpha_bar_t.",
        "a = alpha_bar_t.view(-1, 1, 1, 1); then a.sqrt() * x0 + (1 - a).sqrt() * eps.",
    ),
)

ALPHA_BAR = Exercise(
    reference=lambda beta: torch.cumprod(1 - beta, 0),
    cases=beta_case,
    tolerance=1e-6,
    mistakes=(
        ("this multiplies beta, the noise, not alpha = 1 - beta, what is kept.", lambda b: torch.cumprod(b, 0)),
        ("this is alpha of a single step: alpha_bar is the product of all steps so far.", lambda b: 1 - b),
        ("a sum is not a product: what is kept of what was kept is multiplied.", lambda b: 1 - torch.cumsum(b, 0)),
        (
            "exp(-sum of beta) is close for small beta only; multiply 1 - beta exactly.",
            lambda b: torch.exp(-torch.cumsum(b, 0)),
        ),
        (
            "one step late, alpha_bar at t - 1: entry 0 already holds 1 - beta[0].",
            lambda b: torch.cat([torch.ones(1, dtype=b.dtype), torch.cumprod(1 - b, 0)[:-1]]),
        ),
        (
            "there is one entry too many: the course keeps T entries, and entry 0 is 1 - beta[0].",
            lambda b: torch.cat([torch.ones(1, dtype=b.dtype), torch.cumprod(1 - b, 0)]),
        ),
        (
            "the product runs from the end: t = 0 is the cleanest step.",
            lambda b: torch.cumprod((1 - b).flip(0), 0).flip(0),
        ),
        ("only the last value is returned: keep the product after every step.", lambda b: torch.prod(1 - b)),
        ("this is sqrt(alpha_bar); alpha_bar itself is asked.", lambda b: torch.cumprod(1 - b, 0).sqrt()),
    ),
    hints=(
        "At each step a share 1 - beta of the power is kept.",
        "What is left after three steps is (1 - beta[0]) * (1 - beta[1]) * (1 - beta[2]).",
        "torch.cumprod(..., dim=0) multiplies along a table and keeps every intermediate result.",
    ),
)

UNDO = Exercise(
    reference=remove_noise,
    cases=undo_case,
    tolerance=1e-3,  # dividing by a small sqrt(alpha_bar) enlarges rounding
    mistakes=(
        (
            "the noise is gone, but the picture is still faint: divide by sqrt(alpha_bar).",
            lambda xt, e, a: xt - (1 - per_picture(a)).sqrt() * e,
        ),
        (
            "divide by sqrt(alpha_bar), not by alpha_bar: the square root is missing.",
            lambda xt, e, a: (xt - (1 - per_picture(a)).sqrt() * e) / per_picture(a),
        ),
        (
            "the noise has a coefficient too: xt holds sqrt(1 - alpha_bar) * eps, not eps.",
            lambda xt, e, a: (xt - e) / per_picture(a).sqrt(),
        ),
        (
            "the noise lacks its square root: its coefficient is sqrt(1 - alpha_bar).",
            lambda xt, e, a: (xt - (1 - per_picture(a)) * e) / per_picture(a).sqrt(),
        ),
        (
            "right up to sign: the noise was added on the way there, so it is subtracted here.",
            lambda xt, e, a: (xt + (1 - per_picture(a)).sqrt() * e) / per_picture(a).sqrt(),
        ),
        (
            "the two coefficients are exchanged: which one multiplies eps?",
            lambda xt, e, a: (xt - per_picture(a).sqrt() * e) / (1 - per_picture(a)).sqrt(),
        ),
        ("this only subtracts the noise: neither coefficient is used.", lambda xt, e, a: xt - e),
        (
            "multiply became divide: dividing by sqrt(alpha_bar) makes the faint picture stronger.",
            lambda xt, e, a: (xt - (1 - per_picture(a)).sqrt() * e) * per_picture(a).sqrt(),
        ),
    ),
    hints=(
        "Solve xt = sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * eps for x0.",
        "First take the noise term away from xt, then divide by what multiplies x0.",
        "a = alpha_bar_t.view(-1, 1, 1, 1); then (xt - (1 - a).sqrt() * eps) / a.sqrt().",
    ),
)

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
    ),
    hints=(
        "How much power has the picture in xt, and how much the noise?",
        "The powers are alpha_bar and 1 - alpha_bar; SNR is their ratio.",
        "torch.log(alpha_bar / (1 - alpha_bar)).",
    ),
)

TERMINAL = Exercise(
    reference=terminal,
    cases=alpha_bar_case,
    tolerance=1e-6,
    mistakes=(
        ("this is sqrt(alpha_bar): square it at the end.", lambda a: terminal(a).sqrt()),
        ("shifted, but not scaled: the first value must stay what it was.", lambda a: (a.sqrt() - a.sqrt()[-1]) ** 2),
        ("shift and scale the square root of alpha_bar, not alpha_bar.", lambda a: (a - a[-1]) * a[0] / (a[0] - a[-1])),
        (
            "the first value became 1: scale so that it stays what it was.",
            lambda a: ((a.sqrt() - a.sqrt()[-1]) / (a.sqrt()[0] - a.sqrt()[-1])) ** 2,
        ),
        (
            "only the last value is changed: that is a jump in one step; spread it over all of them.",
            lambda a: torch.cat([a[:-1], torch.zeros(1, dtype=a.dtype)]),
        ),
        ("scaled, but the last value is not 0: subtract it first.", lambda a: a * a[0] / (a[0] - a[-1])),
    ),
    hints=(
        "Two things are fixed: the last value becomes 0, the first stays. A shift and a scale do both.",
        "Work on root = sqrt(alpha_bar): subtract its last value, then multiply all by one number.",
        "That number is root[0] / (root[0] - root[-1]); square the result at the end.",
    ),
)


EXERCISES = {
    "01-closed-form": CLOSED_FORM,
    "01-alpha-bar": ALPHA_BAR,
    "01-undo": UNDO,
    "01-snr": SNR,
    "01-terminal": TERMINAL,
    "01-training-example": TRAINING_EXAMPLE,
}
