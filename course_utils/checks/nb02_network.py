"""The exercises on two parts of the U-Net: how it is told the step, and how the way up meets the way down."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise


def embedding(t, dim, swap=False, shift=0, period=10_000.0, times=1.0):
    """Sinusoidal embedding with everything that can be mistaken as an argument."""
    half = dim // 2
    frequency = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32) / (half - shift))
    angle = times * t.float()[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()] if swap else [angle.cos(), angle.sin()], dim=1)


def _interleaved(t, dim):
    half = embedding(t, dim)
    return torch.stack([half[:, : dim // 2], half[:, dim // 2 :]], dim=2).flatten(1)


TIME_EMBEDDING = Exercise(
    reference=embedding,
    tolerance=2e-3,  # float32 holds the cosine of 999 to about 1e-4
    cases=lambda g, i: (torch.randint(1000, (5,), generator=g), (16, 8, 32, 64, 10)[i]),
    mistakes=(
        (
            "sine and cosine have changed places: this course, like Stable Diffusion, puts the cosines first.",
            lambda t, dim: embedding(t, dim, swap=True),
        ),
        (
            "the exponent divides by half - 1 (DDPM's convention); here it divides by half.",
            lambda t, dim: embedding(t, dim, shift=1),
        ),
        ("cosines and sines alternate; here all cosines come first, then all sines.", _interleaved),
        (
            "the slowest wave is missing its 10000: the exponent holds -log(10000) * i / half.",
            lambda t, dim: embedding(t, dim, period=math.e),
        ),
        (
            "the angles are multiplied by 2 pi: t times the frequency is already in radians.",
            lambda t, dim: embedding(t, dim, times=2 * math.pi),
        ),
        (
            "t is divided by 1000 first: the embedding takes whole steps 0 to 999.",
            lambda t, dim: embedding(t, dim, times=1e-3),
        ),
    ),
    hints=(
        "dim / 2 waves, from fast to slow; each is read at time t as a cosine and as a sine.",
        "Wave i has frequency 10000 ** (-i / half), i = 0 ... half - 1; the angle is t * frequency.",
        "angle = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half); "
        "return torch.cat([angle.cos(), angle.sin()], dim=1).",
    ),
)


def skip_case(g: torch.Generator, i: int) -> tuple:
    """(x, skip): features at half the side, and what the way down kept; sometimes with equal channels."""
    channels = 4 if i % 2 else 6
    return torch.randn(2, 4, 4, 4, generator=g), torch.randn(2, channels, 8, 8, generator=g)


def _larger(x, **how):
    return F.interpolate(x, scale_factor=2, **({"mode": "nearest"} | how))


SKIP = Exercise(
    reference=lambda x, skip: torch.cat([_larger(x), skip], dim=1),
    cases=skip_case,
    mistakes=(
        (
            "the order is reversed: first the features that come up, then the skip, as the real weights expect.",
            lambda x, skip: torch.cat([skip, _larger(x)], dim=1),
        ),
        (
            'the features are blended: nearest neighbour repeats each pixel; set mode="nearest".',
            lambda x, skip: torch.cat([_larger(x, mode="bilinear"), skip], dim=1),
        ),
        (
            "the picture is tiled: repeat each pixel (repeat_interleave or interpolate), not the picture (repeat).",
            lambda x, skip: torch.cat([x.repeat(1, 1, 2, 2), skip], dim=1),
        ),
        (
            "the skip is made smaller; instead make the features larger, to the size of the skip.",
            lambda x, skip: torch.cat([x, F.avg_pool2d(skip, 2)], dim=1),
        ),
        ("the skip is missing from the result: join it along the channels.", lambda x, skip: _larger(x)),
    ),
    hints=(
        "First make x as large as skip, then put the two side by side as channels.",
        "Nearest-neighbour upsampling repeats every pixel twice in both directions; channels are dimension 1.",
        'torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], dim=1).',
    ),
)
