"""The exercises of notebook 05: pictures as small latents, and back."""

from __future__ import annotations

import math

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb05_latents import ATTENTION, GAIN, MEDIAN

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


# ------------------------------------------------------------------ what a channel weighs, in bits
def cloud_case(g: torch.Generator, i: int) -> tuple:
    """(mean, logvar): channels that lie differently far from the middle, some clouds narrow, some wide."""
    shape, center = (2 + i % 2, 4, 3 + i, 3), torch.randn(1, 4, 1, 1, generator=g)
    return center + 2 * torch.randn(shape, generator=g), torch.randn(shape, generator=g) * 1.5 - 1


CHANNEL = (0, 2, 3)  # the axes that a channel is averaged over
BIT = math.log(2)  # in nats


def bits(mean, logvar, reduce=torch.mean, dim=CHANNEL, half=0.5, one=1.0, sign=1.0, unit=BIT):
    """KL to a standard Gaussian in bits, a mean for each channel, with what can be mistaken as arguments."""
    return half * reduce(mean**2 + logvar.exp() - one - sign * logvar, dim=dim) / unit


BITS = Exercise(
    reference=lambda mean, logvar: bits(mean, logvar),
    cases=cloud_case,
    mistakes=(
        ("these are nats; a bit is ln 2 nats: divide by math.log(2).", lambda m, lv: bits(m, lv, unit=1.0)),
        ("multiplied by ln 2: a nat is more than a bit, so divide.", lambda m, lv: bits(m, lv, unit=1 / BIT)),
        (
            "the numbers are added; their mean over pictures and places is asked.",
            lambda m, lv: bits(m, lv, reduce=torch.sum),
        ),
        (
            "this is the sum over the places: a mean is asked, so that a larger picture weighs the same.",
            lambda m, lv: bits(m, lv) * m.shape[2] * m.shape[3],
        ),
        ("this is one number for each picture; one for each channel is asked.", lambda m, lv: bits(m, lv, dim=PICTURE)),
        ("the factor 1/2 is missing.", lambda m, lv: bits(m, lv, half=1.0)),
        ("a standard Gaussian must weigh nothing: subtract 1.", lambda m, lv: bits(m, lv, one=0.0)),
        (
            "the logarithm has the wrong sign: narrow clouds, with a negative logvar, weigh more.",
            lambda m, lv: bits(m, lv, sign=-1.0),
        ),
        ("right up to sign: this is the KL with a minus, as the bound has it.", lambda m, lv: -bits(m, lv)),
        (
            "this uses the standard deviation, exp(logvar / 2); the variance, exp(logvar), is asked.",
            lambda m, lv: bits(m, lv) + 0.5 * ((lv / 2).exp() - lv.exp()).mean(CHANNEL) / BIT,
        ),
        (
            "the clouds are averaged before their KL is taken: first the KL of each, then the mean.",
            lambda m, lv: bits(m.mean((2, 3), keepdim=True), lv.mean((2, 3), keepdim=True)),
        ),
        (
            "the clouds are averaged before their KL is taken: first the KL of each, then the mean.",
            lambda m, lv: bits(m.mean(CHANNEL, keepdim=True), lv.mean(CHANNEL, keepdim=True)),
        ),
        (
            "only the noise is counted: half the logarithm of the variance. How far the mean lies off is paid for too.",
            lambda m, lv: -0.5 * lv.mean(CHANNEL) / BIT,
        ),
    ),
    hints=(
        "The KL of idea 2 for each number of the latent, but do not add the numbers up.",
        "The mean over pictures, rows and columns leaves the channels: .mean(dim=(0, 2, 3)). A bit is ln 2 nats.",
        "0.5 * (mean**2 + logvar.exp() - 1 - logvar), its mean over (0, 2, 3), divided by math.log(2).",
    ),
)


# ------------------------------------------------------------------ two numbers that find a sick autoencoder
def patient_case(g: torch.Generator, i: int) -> tuple:
    """(mean, logvar): channels, and pictures in them, that lie off the middle, spread and are noisy differently."""
    size = torch.rand(1, 4, 1, 1, generator=g) * 3 + 0.1
    picture = torch.randn(5, 4, 1, 1, generator=g)
    mean = 2 * torch.randn(1, 4, 1, 1, generator=g) + size * (picture + torch.randn(5, 4, 3 + i, 4, generator=g))
    return mean, torch.randn(1, 4, 1, 1, generator=g) - 2 + 1.5 * torch.randn(mean.shape, generator=g)


def two(mean, logvar, spread=None, noise=None, dim=CHANNEL):
    """Both symptoms, with what can be mistaken as arguments."""
    return torch.stack(
        [
            mean.std(dim=dim) if spread is None else spread(mean),
            logvar.exp().mean(dim=dim).sqrt() if noise is None else noise(logvar),
        ]
    )


SYMPTOMS = Exercise(
    reference=lambda mean, logvar: two(mean, logvar),
    cases=patient_case,
    tolerance=0.012,  # n or n - 1, of at least 60 numbers
    mistakes=(
        (
            "the second row is the noise's variance: take its root.",
            lambda m, lv: two(m, lv, noise=lambda v: v.exp().mean(CHANNEL)),
        ),
        (
            "the second row is the mean of the logarithms: exp comes first, then the mean.",
            lambda m, lv: two(m, lv, noise=lambda v: (v.mean(CHANNEL) / 2).exp()),
        ),
        (
            "the second row averages standard deviations; a root mean square averages variances, then takes the root.",
            lambda m, lv: two(m, lv, noise=lambda v: (v / 2).exp().mean(CHANNEL)),
        ),
        (
            "the second row is the logarithm itself: exp(logvar) is the variance.",
            lambda m, lv: two(m, lv, noise=lambda v: v.mean(CHANNEL)),
        ),
        (
            "the first row is the variance of the means: take its root.",
            lambda m, lv: two(m, lv, lambda x: x.var(CHANNEL)),
        ),
        (
            "the first row is a root mean square: subtract the channel's mean, as a standard deviation does.",
            lambda m, lv: two(m, lv, lambda x: x.square().mean(CHANNEL).sqrt()),
        ),
        (
            "the first row spreads over pictures only, place by place; take all pictures and places together.",
            lambda m, lv: two(m, lv, lambda x: x.std(0).mean((1, 2))),
        ),
        (
            "the first row spreads within each picture only; take all pictures and places together.",
            lambda m, lv: two(m, lv, lambda x: x.std((2, 3)).mean(0)),
        ),
        (
            "one number for all channels: a dead channel hides among living ones. Keep the axis of channels.",
            lambda m, lv: torch.stack([m.std(), lv.exp().mean().sqrt()]),
        ),
        ("the rows are exchanged: the spread of the means comes first.", lambda m, lv: two(m, lv).flip(0)),
    ),
    hints=(
        "Two questions to a channel: do its means tell pictures apart, and how loud is its own noise?",
        "mean.std(dim=(0, 2, 3)) is (C,); the noise's variance is logvar.exp(), averaged over the same axes.",
        "torch.stack of mean.std(dim=(0, 2, 3)) and of the root of logvar.exp().mean(dim=(0, 2, 3)).",
    ),
)


EXERCISES = {
    "05-psnr": PSNR,
    "05-bits": BITS,
    "05-median": MEDIAN,
    "05-gain": GAIN,
    "05-attention": ATTENTION,
    "05-symptoms": SYMPTOMS,
}
