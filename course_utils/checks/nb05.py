"""The exercises of notebook 05: pictures as small latents, and back."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb05_latents import LINEAR, PERCEPTUAL, SCALE

PICTURE = (1, 2, 3)  # the axes of one picture in a batch


# ------------------------------------------------------------------ decibels
def pictures_case(g: torch.Generator, i: int) -> tuple:
    """(x, y): pictures in [-1, 1] and copies of very different quality."""
    x = torch.rand(3, 3, 8 + i, 8, generator=g) * 2 - 1
    return x, x + torch.randn(x.shape, generator=g) * torch.tensor([0.02, 0.1, 0.5]).view(-1, 1, 1, 1)


def psnr(x, y, span=2.0, error=lambda gap: gap.square().mean(PICTURE)):
    """PSNR of every picture, with what can be mistaken as arguments."""
    return 10 * torch.log10(span**2 / error(x - y))


PSNR = Exercise(
    reference=psnr,
    cases=pictures_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the pixels span 2, from -1 to 1, not 1: the span is squared, so 4 stands above.",
            lambda x, y: psnr(x, y, span=1.0),
        ),
        (
            "the pixels span 2, from -1 to 1: 255 belongs to pictures in whole numbers.",
            lambda x, y: psnr(x, y, span=255.0),
        ),
        ("the span is not squared: 4 stands above the mean squared error.", lambda x, y: psnr(x, y, span=2**0.5)),
        ("right up to sign: a small error gives many decibels, so the error stands below.", lambda x, y: -psnr(x, y)),
        (
            "all pictures share one error here: take the mean over the axes (1, 2, 3), one number for each picture.",
            lambda x, y: psnr(x, y, error=lambda gap: gap.square().mean().expand(len(gap))),
        ),
        (
            "this is a natural logarithm; decibels count in powers of ten: torch.log10.",
            lambda x, y: psnr(x, y) * torch.log(torch.tensor(10.0)),
        ),
        (
            "the squared errors are added; their mean is asked, or large pictures would always look worse.",
            lambda x, y: psnr(x, y, error=lambda gap: gap.square().sum(PICTURE)),
        ),
        (
            "this is a factor 2 short: 10 times the logarithm of the squares, or 20 times that of the roots.",
            lambda x, y: psnr(x, y) / 2,
        ),
        (
            "the gap is not squared: the mean squared error stands below, not the mean absolute one.",
            lambda x, y: psnr(x, y, error=lambda gap: gap.abs().mean(PICTURE)),
        ),
        (
            "the gaps are averaged before they are squared, so that plus and minus cancel: square first.",
            lambda x, y: psnr(x, y, error=lambda gap: gap.mean(PICTURE).square()),
        ),
        (
            "each channel has its own decibels here, then averaged: average the errors first, then one logarithm.",
            lambda x, y: (10 * torch.log10(4 / (x - y).square().mean((2, 3)))).mean(1),
        ),
        (
            "each pixel has its own decibels here, averaged afterwards: average the errors first, then one logarithm.",
            lambda x, y: (10 * torch.log10(4 / (x - y).square())).mean(PICTURE),
        ),
        (
            "the span is that of all pixels there could be, 2, not of the largest one here.",
            lambda x, y: psnr(x, y, span=x.max()),
        ),
        (
            "the span is that of all pixels there could be, 2, not of those that happen to be here.",
            lambda x, y: psnr(x, y, span=x.max() - x.min()),
        ),
    ),
    hints=(
        "First the mean squared error of each picture, then its logarithm.",
        "(x - y).square().mean(dim=(1, 2, 3)) is (B,); the span of our pixels is 2, squared 4.",
        "10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3))).",
    ),
)


# ------------------------------------------------------------------ the cloud: drawing from it, and its price
def cloud_case(g: torch.Generator, i: int) -> tuple:
    """(mean, logvar): some clouds narrow, some wide."""
    shape = (2 + i % 2, 4, 3 + i, 3)
    return torch.randn(shape, generator=g) * 2, torch.randn(shape, generator=g) * 1.5 - 1


def sample_case(g: torch.Generator, i: int) -> tuple:
    """(mean, logvar, noise)."""
    mean, logvar = cloud_case(g, i)
    return mean, logvar, torch.randn(mean.shape, generator=g)


def gradients_arrive(answer, args) -> str | None:
    """A complaint if the drawn latent does not pull at mean and logvar."""
    mean, logvar = (x.clone().requires_grad_(True) for x in args[:2])
    z = answer(mean, logvar, args[2])
    got = torch.autograd.grad(z.sum(), (mean, logvar), allow_unused=True) if z.requires_grad else (None, None)
    for name, gradient in zip(("mean", "logvar"), got, strict=True):
        if gradient is None or not gradient.abs().sum() > 0:
            return f"right numbers, but no gradient reaches {name}: leave out .detach(), .data, .item() and no_grad."
    return None


SAMPLE = Exercise(
    reference=lambda mean, logvar, noise: mean + (logvar / 2).exp() * noise,
    cases=sample_case,
    examine=gradients_arrive,
    mistakes=(
        (
            "this multiplies by the variance: the standard deviation is its root, exp(logvar / 2).",
            lambda m, lv, e: m + lv.exp() * e,
        ),
        (
            "this multiplies by the logarithm itself: exp(logvar / 2) is the standard deviation.",
            lambda m, lv, e: m + lv * e,
        ),
        ("half the logarithm is not the spread yet: take its exp.", lambda m, lv, e: m + lv / 2 * e),
        ("the noise is added at size 1 everywhere: multiply it by exp(logvar / 2).", lambda m, lv, e: m + e),
        ("the mean is missing: the cloud lies around it.", lambda m, lv, e: (lv / 2).exp() * e),
        ("this is the mean alone; a drawn latent has noise.", lambda m, lv, e: m + 0),
        (
            "the mean is multiplied too; only the noise has the size of the spread.",
            lambda m, lv, e: (m + e) * (lv / 2).exp(),
        ),
        (
            "halve the logarithm, not the variance: exp(logvar / 2), the root of exp(logvar).",
            lambda m, lv, e: m + lv.exp() / 2 * e,
        ),
        (
            "the root is taken of the logarithm, which may be negative: take it of the variance, exp(logvar / 2).",
            lambda m, lv, e: m + lv.sqrt() * e,
        ),
        ("the logarithm is doubled: a root halves it, exp(logvar / 2).", lambda m, lv, e: m + (2 * lv).exp() * e),
        (
            "the noise is subtracted. The cloud would be the same, but z = mean + std * noise is asked.",
            lambda m, lv, e: m - (lv / 2).exp() * e,
        ),
    ),
    hints=(
        "A cloud around mean: noise of size 1, made as wide as the cloud.",
        "logvar is log(std ** 2) = 2 log(std), so std = exp(logvar / 2).",
        "mean + torch.exp(logvar / 2) * noise.",
    ),
)


def kl(mean, logvar, reduce=torch.mean, half=0.5, one=1.0, sign=1.0):
    """KL to a standard Gaussian, averaged over a picture's numbers, with what can be mistaken as arguments."""
    return half * reduce(mean**2 + logvar.exp() - one - sign * logvar, dim=PICTURE)


KL = Exercise(
    reference=lambda mean, logvar: kl(mean, logvar),
    cases=cloud_case,
    mistakes=(
        (
            "the numbers are added; their mean is asked, so that a larger latent does not pay more.",
            lambda m, lv: kl(m, lv, reduce=torch.sum),
        ),
        ("the factor 1/2 is missing.", lambda m, lv: kl(m, lv, half=1.0)),
        ("a standard Gaussian must cost nothing: subtract 1.", lambda m, lv: kl(m, lv, one=0.0)),
        (
            "the logarithm has the wrong sign: narrow clouds, with a negative logvar, are dear.",
            lambda m, lv: kl(m, lv, sign=-1.0),
        ),
        ("the mean is not squared.", lambda m, lv: kl(m, lv) + 0.5 * (m - m**2).mean(PICTURE)),
        (
            "this uses the standard deviation, exp(logvar / 2); the variance, exp(logvar), is asked.",
            lambda m, lv: kl(m, lv) + 0.5 * ((lv / 2).exp() - lv.exp()).mean(PICTURE),
        ),
        (
            "all pictures share one number here: reduce over the axes (1, 2, 3) only.",
            lambda m, lv: kl(m, lv).mean().expand(len(m)),
        ),
        ("right up to sign: this is the KL with a minus, as the papers' lower bound has it.", lambda m, lv: -kl(m, lv)),
        (
            "two things: the sign is a minus too many, and the numbers are added where their mean is asked.",
            lambda m, lv: -kl(m, lv, reduce=torch.sum),
        ),
        (
            "the logarithm stands where the variance belongs: logvar.exp().",
            lambda m, lv: kl(m, lv) + 0.5 * (lv - lv.exp()).mean(PICTURE),
        ),
        (
            "logvar.exp() is the variance already: do not square it.",
            lambda m, lv: kl(m, lv) + 0.5 * ((2 * lv).exp() - lv.exp()).mean(PICTURE),
        ),
        (
            "the half meets the first term only: put the four terms in brackets.",
            lambda m, lv: 2 * kl(m, lv) - 0.5 * (m**2).mean(PICTURE),
        ),
    ),
    hints=(
        "Write the four terms for one number of the latent, then average over the picture.",
        "mean ** 2 + logvar.exp() - 1 - logvar, and half of it.",
        "0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(dim=(1, 2, 3)).",
    ),
)


EXERCISES = {
    "05-psnr": PSNR,
    "05-sample": SAMPLE,
    "05-kl": KL,
    "05-perceptual": PERCEPTUAL,
    "05-scale": SCALE,
    "05-linear": LINEAR,
}
