"""The exercises of notebook 01: destroying a picture a little at a time."""

from __future__ import annotations

import math
from functools import partial

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import MIX_MISTAKES, add_noise
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


def pictures_of_one_step(g: torch.Generator, i: int) -> tuple:
    """(x0, eps, xt): many bright pictures of variance 0.2 to 0.3, as ours are, all of one step."""
    x0 = 0.8 + (0.45 + 0.02 * i) * torch.randn(64, 3, 16, 16, generator=g)
    eps = torch.randn(x0.shape, generator=g)
    return x0, eps, add_noise(x0, eps, torch.full((64,), 0.15 + 0.16 * i))


def measure_case(g: torch.Generator, i: int) -> tuple:
    """(x0, xt)."""
    x0, _, xt = pictures_of_one_step(g, i)
    return x0, xt


def copy_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps)."""
    return pictures_of_one_step(g, i)[:0:-1]


def shift_case(g: torch.Generator, i: int) -> tuple:
    """(alpha_bar, side): a float64 table of 10 to 50 steps, and another size than 64."""
    beta = torch.rand(10 * (i + 1), generator=g, dtype=torch.float64).sort().values * 0.06 + 0.003
    return torch.cumprod(1 - beta, 0), (16, 32, 128, 256, 48)[i % 5]


def diagnose_case(g: torch.Generator, i: int) -> tuple:
    """(x0, t, alpha_bar, generator): steps that differ."""
    x0 = random_pictures(g, i)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.01, 0.2, 20, dtype=torch.float64), 0)
    seed = int(torch.randint(1 << 30, (), generator=g))
    return x0, torch.randperm(20, generator=g)[: len(x0)], alpha_bar, torch.Generator().manual_seed(seed)


def slope(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The factor c that makes c * x closest to y."""
    return (x * y).sum() / (x * x).sum()


def measured_alpha_bar(x0: torch.Tensor, xt: torch.Tensor) -> torch.Tensor:
    """alpha_bar of a step, from pictures before and after it."""
    return slope(x0, xt) ** 2


def shifted(alpha_bar: torch.Tensor, side: float) -> torch.Tensor:
    """A table made for 64 pixels, for another side (Hoogeboom et al. 2023, eq. 5)."""
    return torch.sigmoid(torch.logit(alpha_bar) + 2 * math.log(64 / side))


def uniform(*shape, width, generator) -> torch.Tensor:
    """Uniform noise of mean 0, as wide as asked."""
    return width * (torch.rand(*shape, generator=generator) - 0.5)


def example_batch(x0, t, alpha_bar, generator, draw=torch.randn, fresh=True, own_step=True) -> torch.Tensor:
    """Noisy pictures: draw: what makes the noise; fresh: each picture its own; own_step: each picture its own step."""
    eps = draw((x0 if fresh else x0[:1]).shape, generator=generator)
    return add_noise(x0, eps, alpha_bar[t if own_step else t[:1].expand(len(t))].to(x0.dtype))


CLOSED_FORM = Exercise(
    reference=add_noise,
    cases=noising_case,
    mistakes=MIX_MISTAKES,
    hints=(
        "Two terms are added: some of the picture and some of the noise.",
        "The two coefficients, squared, add up to 1; the picture's, squared, is alpha_bar_t.",
        "A number per picture meets pictures in the shape (B, 1, 1, 1): alpha_bar_t.view(-1, 1, 1, 1). Then the roots.",
    ),
)

MEASURE = Exercise(
    reference=measured_alpha_bar,
    cases=measure_case,
    tolerance=0.03,  # what luck leaves of 49,152 numbers, whichever right way they are put together
    mistakes=(
        (
            "this is the squared correlation: it is alpha_bar only for pictures of variance 1. "
            "How much of x0 is in xt, whatever the noise?",
            lambda x0, xt: torch.corrcoef(torch.stack([x0.flatten(), xt.flatten()]))[0, 1] ** 2,
        ),
        ("this is the factor of the picture, sqrt(alpha_bar): square it.", slope),
        (
            "this is the quotient of the two variances: the variance of xt contains the noise, too.",
            lambda x0, xt: xt.var() / x0.var(),
        ),
        (
            "this is the correlation, not even squared: how much of x0 is in xt, whatever the noise?",
            lambda x0, xt: torch.corrcoef(torch.stack([x0.flatten(), xt.flatten()]))[0, 1],
        ),
        (
            "the mean of the product alone: divide it by the mean square of x0 before you square.",
            lambda x0, xt: (x0 * xt).mean() ** 2,
        ),
        (
            "this takes all of xt for noise; its variance is alpha_bar * Var(x0) + 1 - alpha_bar.",
            lambda x0, xt: 1 - xt.var(),
        ),
        (
            "this takes all of x0 away before it looks at the noise; xt holds only sqrt(alpha_bar) of it.",
            lambda x0, xt: 1 - (xt - x0).var(),
        ),
        (
            "the regression runs the wrong way: it predicts x0 from xt, and noise in xt makes that slope too small.",
            lambda x0, xt: slope(xt, x0) ** 2,
        ),
        (
            "this is the share of the noise, 1 - alpha_bar.",
            lambda x0, xt: 1 - measured_alpha_bar(x0, xt),
        ),
        (
            "one number a picture: all pictures have the same step, so measure over all of them together.",
            lambda x0, xt: ((x0 * xt).sum((1, 2, 3)) / (x0 * x0).sum((1, 2, 3))) ** 2,
        ),
    ),
    hints=(
        "xt = a * x0 + noise that has nothing to do with x0. What is the best straight line from x0 to xt?",
        "Multiply both sides by x0 and take the mean: what becomes of the noise?",
        "That leaves mean(x0 * xt) = a * mean(x0 * x0), with a = sqrt(alpha_bar).",
    ),
)

COPY = Exercise(
    reference=slope,
    cases=copy_case,
    mistakes=(
        ("upside down: the sum of xt * xt belongs below the line.", lambda xt, e: (xt * xt).sum() / (xt * e).sum()),
        ("this predicts xt from eps: divide by the power of what is given, xt.", lambda xt, e: slope(e, xt)),
        (
            "this only matches the sizes, std against std; how alike xt and eps are counts, too.",
            lambda xt, e: e.std() / xt.std(),
        ),
        (
            "this only matches the sizes, length against length; how alike xt and eps are counts, too.",
            lambda xt, e: e.norm() / xt.norm(),
        ),
        (
            "the means are taken away first, and the network copies xt with its mean: leave them in.",
            lambda xt, e: slope(xt - xt.mean(), e - e.mean()),
        ),
        ("this is the correlation: it forgets how large xt is.", lambda xt, e: (xt * e).sum() / (xt.norm() * e.norm())),
        (
            "a mean of quotients: where xt is near 0 they explode. Divide one mean by another.",
            lambda xt, e: (e / xt).mean(),
        ),
        (
            "the mean of the product alone: divide it by the mean square of xt.",
            lambda xt, e: (xt * e).mean(),
        ),
        (
            "this is the error that is left; the factor c is asked.",
            lambda xt, e: (slope(xt, e) * xt - e).square().mean(),
        ),
        (
            "one factor a picture: the network has one for each step, so take all pictures together.",
            lambda xt, e: (xt * e).sum((1, 2, 3)) / (xt * xt).sum((1, 2, 3)),
        ),
    ),
    hints=(
        "The error is a parabola in c: write out the square.",
        "mean((eps - c xt)^2) = mean(eps^2) - 2c mean(xt eps) + c^2 mean(xt^2). Where is its lowest point?",
        "Set the derivative by c to 0 and solve for c: a mean over a mean.",
    ),
)

SHIFT = Exercise(
    reference=shifted,
    cases=shift_case,
    tolerance=1e-6,
    mistakes=(
        (
            "the wrong way: small pictures drown early, so below 64 pixels the log-SNR must rise.",
            lambda a, side: shifted(a, 64 * 64 / side),
        ),
        (
            "half of the shift: averaging k x k pixels divides the noise by k^2, so it is 2 log(64 / side).",
            lambda a, side: shifted(a, math.sqrt(64 * side)),
        ),
        (
            "twice the shift: 2 log(64 / side) is the logarithm of (64 / side) ** 2 already.",
            lambda a, side: shifted(a, side**2 / 64),
        ),
        ("this is the shifted log-SNR; turn it back into alpha_bar.", lambda a, side: torch.logit(shifted(a, side))),
        (
            "this is the SNR itself: from SNR = a / (1 - a) the share a follows.",
            lambda a, side: a / (1 - a) * (64 / side) ** 2,
        ),
        ("this scales alpha_bar, which leaves [0, 1]; scale the SNR.", lambda a, side: a * (64 / side) ** 2),
        (
            "the log-SNR lost its noise: log(alpha_bar) alone is shifted; divide by 1 - alpha_bar first.",
            lambda a, side: torch.sigmoid(torch.log(a) + 2 * math.log(64 / side)),
        ),
        ("nothing moved: is `side` used?", lambda a, side: a),
        *(
            (
                "log10 or log2 in place of the natural logarithm.",
                lambda a, side, log=log: torch.sigmoid(torch.logit(a) + 2 * log(64 / side)),
            )
            for log in (math.log10, math.log2)
        ),
        (
            "the way back has another base: the sigmoid undoes the natural logarithm, not log2.",
            lambda a, side: torch.sigmoid(torch.logit(shifted(a, side)) / math.log(2)),
        ),
    ),
    hints=(
        "Three moves: alpha_bar to log-SNR, add, back to alpha_bar.",
        "From log-SNR back: SNR = a / (1 - a). Solve for a.",
        "The function that does it is the sigmoid, which torch has; the one before it is torch.log of the SNR.",
    ),
)

DIAGNOSE = Exercise(
    reference=example_batch,
    cases=diagnose_case,
    mistakes=(
        (
            "three symptoms are left: the pictures are too bright, all have the same grain, and all are equally noisy.",
            partial(example_batch, draw=torch.rand, fresh=False, own_step=False),
        ),
        (
            "two symptoms are left: all pictures have the same grain, and all are equally noisy.",
            partial(example_batch, fresh=False, own_step=False),
        ),
        (
            "two symptoms are left: the pictures are too bright, and all are equally noisy.",
            partial(example_batch, draw=torch.rand, own_step=False),
        ),
        (
            "two symptoms are left: the pictures are too bright, and all have the same grain.",
            partial(example_batch, draw=torch.rand, fresh=False),
        ),
        ("one symptom is left: all pictures are equally noisy.", partial(example_batch, own_step=False)),
        ("one symptom is left: all pictures have the same grain.", partial(example_batch, fresh=False)),
        (
            "one symptom is left: the pictures are too bright. What is the mean of this noise?",
            partial(example_batch, draw=torch.rand),
        ),
        (
            "the noise is uniform, centred now but too weak: its variance is 1/12, not 1.",
            partial(example_batch, draw=partial(uniform, width=1)),
        ),
        (
            "the noise is uniform, centred now but too weak: its variance is 1/3, not 1.",
            partial(example_batch, draw=partial(uniform, width=2)),
        ),
        (
            "the noise is still uniform, with the right mean and variance; Gaussian noise comes from torch.randn.",
            partial(example_batch, draw=partial(uniform, width=math.sqrt(12))),
        ),
    ),
    hints=(
        "Compare neighbours: what is the same in all four pictures and should not be?",
        "How strong is the noise at t = 40, and at t = 850? Is its pattern the same? What became of black?",
        "Look at t[0], at the shape that eps is drawn with, and at what torch.rand draws.",
    ),
)


EXERCISES = {
    "01-closed-form": CLOSED_FORM,
    "01-measure": MEASURE,
    "01-copy": COPY,
    "01-shift": SHIFT,
    "01-diagnose": DIAGNOSE,
    "01-training-example": TRAINING_EXAMPLE,
}
