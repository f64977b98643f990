"""The exercises of notebook 09: what a cascade hands on, and what it makes of it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb09_cascade import COST, SKIPS, STAGE, blocks, spread


# ------------------------------------------------------------------ bring a picture back to what was enlarged
def enlarged_case(g: torch.Generator, i: int) -> tuple:
    """(x (B, 3, H, W), small (B, 3, h, w)): pictures in [-1, 1] that have strayed from what was enlarged, H = f h."""
    f, side = (2, 4, 3, 5, 4)[i], (4, 3, 5, 3, 4)[i]
    small = 0.9 * (2 * torch.rand(2 + i % 2, 3, side, side, generator=g) - 1)
    strayed = small + 0.2 * torch.randn(small.shape, generator=g)
    x = spread(strayed, f * side) + 0.4 * torch.randn(*small.shape[:2], f * side, f * side, generator=g)
    return x.clamp(-1, 1), small


def corrected(x, small, shrink=blocks, enlarge=spread):
    """x with the block means that small asks for, with what can be mistaken as arguments."""
    return x + enlarge(small - shrink(x, small.shape[-1]), x.shape[-1])


CONSISTENT = Exercise(
    reference=corrected,
    cases=enlarged_case,
    mistakes=(
        (
            "the correction is enlarged smoothly, which alters its block means: repeat each number over its block.",
            lambda x, small: corrected(x, small, enlarge=lambda d, n: F.interpolate(d, (n, n), mode="bicubic")),
        ),
        (
            "the correction is enlarged smoothly, which alters its block means: repeat each number over its block.",
            lambda x, small: corrected(x, small, enlarge=lambda d, n: F.interpolate(d, (n, n), mode="bilinear")),
        ),
        (
            "x is shrunk with weights that reach into the neighbouring blocks; the plain mean of each block is asked.",
            lambda x, small: corrected(
                x, small, lambda x, n: F.interpolate(x, (n, n), mode="bilinear", antialias=True)
            ),
        ),
        (
            "x is shrunk by taking one pixel of each block; the mean of all of them is asked.",
            lambda x, small: corrected(x, small, lambda x, n: F.interpolate(x, (n, n), mode="nearest")),
        ),
        (
            "this is the small picture in blocks: the details that the network painted are gone.",
            lambda x, small: spread(small, x.shape[-1]),
        ),
        (
            "the correction goes the wrong way: a block too dark needs more, small - its mean.",
            lambda x, small: 2 * x - corrected(x, small),
        ),
        (
            "one shift serves the whole picture here; each block has its own.",
            lambda x, small: x + (small.mean((2, 3), keepdim=True) - x.mean((2, 3), keepdim=True)),
        ),
        (
            "all of small is added; x has most of it already, so add what is missing, small - the means of x.",
            lambda x, small: x + spread(small, x.shape[-1]),
        ),
        (
            "the blocks are multiplied: near grey that divides by almost nothing, and it stretches details. Add.",
            lambda x, small: x * spread(small / blocks(x, small.shape[-1]), x.shape[-1]),
        ),
        (
            "cut off at -1 and 1 the means are wrong again: leave that to whoever saves the picture.",
            lambda x, small: corrected(x, small).clamp(-1, 1),
        ),
    ),
    hints=(
        "The smallest change that gives each block its mean treats all pixels of a block alike. How much does it lack?",
        "Three steps: the means of x over blocks, what they lack of small, and that added to every pixel of its block.",
        "F.adaptive_avg_pool2d(x, small.shape[-1]) gives the means; F.interpolate(..., size=x.shape[-2:]) repeats, its "
        'mode being "nearest".',
    ),
)


# ------------------------------------------------------------------ the noise as strong as a fault
def fault_case(g: torch.Generator, i: int) -> tuple:
    """(made, real (B, 3, h, w)): pictures with faults of many sizes, each with a shift of colour too."""
    real = 0.6 * torch.randn(3 + i, 3, 6, 6, generator=g)
    size = torch.linspace(0.1, 1.2, 3 + i).view(-1, 1, 1, 1)
    return real + size * (torch.randn(real.shape, generator=g) + torch.rand(3 + i, 3, 1, 1, generator=g)), real


def rms(d):
    """Root of the mean square of each picture of (B, ...), (B,)."""
    return d.square().flatten(1).mean(1).sqrt()


def level_of(made, real, size=lambda made, real: rms(made - real), level=lambda e: e / (1 + e**2).sqrt()):
    """The level whose noise is as strong as the fault, with what can be mistaken as arguments."""
    return level(size(made, real))


LEVEL = Exercise(
    reference=level_of,
    cases=fault_case,
    mistakes=(
        (
            "this is the fault itself; augment fades the picture by sqrt(1 - level^2), and its fault with it.",
            lambda *args: level_of(*args, level=lambda e: e),
        ),
        (
            "this is the noise's share of the variance, level^2: its root is asked.",
            lambda *args: level_of(*args, level=lambda e: e**2 / (1 + e**2)),
        ),
        (
            "this is what is left of the picture, sqrt(1 - level^2), not the level.",
            lambda *args: level_of(*args, level=lambda e: 1 / (1 + e**2).sqrt()),
        ),
        (
            "the mean square of the fault stands where its root belongs.",
            lambda *args: level_of(*args, size=lambda made, real: rms(made - real) ** 2),
        ),
        (
            "the fault is measured as a mean absolute difference; noise is measured by its mean square's root.",
            lambda *args: level_of(*args, size=lambda made, real: (made - real).abs().flatten(1).mean(1)),
        ),
        (
            "std takes the mean difference away first; a shift of colour is a fault too.",
            lambda *args: level_of(*args, size=lambda made, real: (made - real).flatten(1).std(1)),
        ),
        (
            "this is the length of the difference, a sum over pixels; the noise has its strength in every pixel.",
            lambda *args: level_of(*args, size=lambda made, real: (made - real).flatten(1).norm(dim=1)),
        ),
        (
            "the fault is divided by the picture's own strength; the noise is added to pictures as they are.",
            lambda *args: level_of(*args, size=lambda made, real: rms(made - real) / rms(real)),
        ),
        (
            "one level for all pictures; each has a fault of its own.",
            lambda made, real: level_of(made, real, size=lambda a, b: (a - b).square().mean().sqrt().expand(len(a))),
        ),
    ),
    hints=(
        "augment gives sqrt(1 - level^2) small + level eps. What becomes of the fault in it, and how strong is eps?",
        "With e the root of the mean square of made - real, look for sqrt(1 - level^2) e = level, for each picture.",
        "Square both sides and solve for level^2: it is e^2 / (1 + e^2). One e a picture: .flatten(1).mean(dim=1).",
    ),
)


# ------------------------------------------------------------------ a step for a model that predicts the noise
def guided_case(g: torch.Generator, i: int) -> tuple:
    """(eps_pred, xt (B, 3, H, W), alpha_bar of now and of the next step, percentile); some x0 leave [-1, 1]."""
    scale = torch.tensor([0.3, 1.5, 0.8, 2.5, 0.2])[: 3 + i % 3].view(-1, 1, 1, 1)
    x0 = scale * (torch.randn(len(scale), 3, 6, 6, generator=g) + torch.rand(len(scale), 3, 1, 1, generator=g) - 0.5)
    eps = torch.randn(x0.shape, generator=g)
    now, after = 0.2 + 0.4 * torch.rand(2, generator=g) + torch.tensor([0.0, 0.2])
    xt = now.sqrt() * x0 + (1 - now).sqrt() * eps
    return eps, xt, now, after, (0.95, 0.9, 0.98, 0.85, 0.92)[i]


def highest(x0, percentile, least=1.0, size=torch.abs, start=1):
    """The percentile of the absolute values of each picture, at least 1, (B, 1, 1, 1); start: 2 for each channel."""
    s = torch.quantile(size(x0).flatten(start), percentile, dim=start).clamp(min=least)
    return s.view(*s.shape, *[1] * (x0.ndim - s.ndim))


def squeezed(x0, percentile, s=highest):
    """Dynamic thresholding: cut off at s and divided by it."""
    s = s(x0, percentile)
    return x0.clamp(-s, s) / s


def one_of_them(x0, percentile):
    """The value of each picture that stands at the percentile, when they are sorted by size."""
    values = x0.flatten(1).abs().sort(dim=1).values
    return values[:, int(percentile * values.shape[1])].clamp(min=1).view(-1, 1, 1, 1)


def guided_step(eps, xt, now, after, percentile, threshold=squeezed, fresh=True):
    """A DDIM step from now to after; fresh: the noise follows from the thresholded x0."""
    x0 = threshold((xt - (1 - now).sqrt() * eps) / now.sqrt(), percentile)
    noise = (xt - now.sqrt() * x0) / (1 - now).sqrt() if fresh else eps
    return after.sqrt() * x0 + (1 - after).sqrt() * noise


def threshold_slip(**options):
    """The step whose s is mistaken as the options say."""
    return lambda *args: guided_step(
        *args, threshold=lambda x0, p: squeezed(x0, p, lambda x, p: highest(x, p, **options))
    )


THRESHOLD = Exercise(
    reference=guided_step,
    cases=guided_case,
    mistakes=(
        (
            "x0 has changed and the noise has not: xt no longer consists of the two. The noise follows from xt and x0.",
            lambda *args: guided_step(*args, fresh=False),
        ),
        (
            "this is static thresholding, cut off at -1 and 1: cut off at s, then divide by s.",
            lambda *args: guided_step(*args, threshold=lambda x0, p: x0.clamp(-1, 1)),
        ),
        ("s may fall below 1 here: then a pale picture is stretched. At least 1.", threshold_slip(least=1e-6)),
        (
            "x0 is cut off at s and not divided by it, so it still leaves [-1, 1].",
            lambda *args: guided_step(*args, threshold=lambda x0, p: x0.clamp(-highest(x0, p), highest(x0, p))),
        ),
        (
            "x0 is divided by s and not cut off at it, so what lies beyond the percentile still leaves [-1, 1].",
            lambda *args: guided_step(*args, threshold=lambda x0, p: x0 / highest(x0, p)),
        ),
        (
            "one s serves all pictures: then what becomes of one depends on which others are drawn with it.",
            lambda *args: guided_step(*args, threshold=lambda x0, p: squeezed(x0[None], p)[0]),
        ),
        (
            "each channel has an s of its own, which changes colours; one s a picture.",
            threshold_slip(start=2),
        ),
        (
            "the percentile is of x0, where dark pixels count as small; take absolute values.",
            threshold_slip(size=lambda x0: x0),
        ),
        (
            "s is the largest value, so a single pixel decides; the percentile is asked.",
            lambda *args: guided_step(*args, threshold=lambda x0, p: squeezed(x0, 1.0)),
        ),
        (
            "s is one of the values; torch.quantile, as the field does, takes a number between two.",
            lambda *args: guided_step(*args, threshold=lambda x0, p: squeezed(x0, p, one_of_them)),
        ),
        (
            "the predicted noise is thresholded; the range [-1, 1] is that of pictures, x0.",
            lambda eps, xt, now, after, p: guided_step(squeezed(eps, p), xt, now, after, p, lambda x0, p: x0),
        ),
        (
            "xt is thresholded; it may leave [-1, 1], being noisy: the picture in it, x0, may not.",
            lambda eps, xt, now, after, p: guided_step(eps, squeezed(xt, p), now, after, p, lambda x0, p: x0),
        ),
        (
            "nothing is thresholded: this is DDIM's step.",
            lambda *args: guided_step(*args, threshold=lambda x0, p: x0),
        ),
    ),
    hints=(
        "The range [-1, 1] is known of x0 only. So: from the noise to x0, threshold, and back to the noise.",
        "xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps holds before; solve it for eps again with the new x0, "
        "and mix both as alpha_bar_next says.",
        "s = torch.quantile(x0.flatten(1).abs(), percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1); the noise that "
        "belongs to the new x0 is (xt - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt().",
    ),
)


EXERCISES = {
    "09-consistent": CONSISTENT,
    "09-level": LEVEL,
    "09-threshold": THRESHOLD,
    "09-cost": COST,
    "09-skips": SKIPS,
    "09-stage": STAGE,
}
