"""The last exercise of notebook 08: two numbers that tell a prior's faults apart."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise


def draws_case(g: torch.Generator, i: int) -> tuple:
    """(made (M, n, D), real (M, m, D)): vectors for M captions, of one length, that are sometimes another caption's."""
    captions, dim = 4 + i, 6
    center = torch.randn(captions, 1, dim, generator=g)
    made = center + (0.5 + 0.3 * i) * torch.randn(captions, 3, dim, generator=g)
    return tuple(F.normalize(v, dim=2) for v in (made, center + torch.randn(captions, 5, dim, generator=g)))


def wide(vectors, own=False):
    """Mean distance of two vectors of one caption; own: each with itself too."""
    n, distances = vectors.shape[1], torch.cdist(vectors, vectors)
    return distances.sum((1, 2)).div(n * n if own else n * (n - 1)).mean()


def belongs(made, real, least=False):
    """The share of vectors whose nearest real one is of their own caption; least: the farthest."""
    cosines = made.flatten(0, 1) @ real.flatten(0, 1).T  # (M n, M m)
    found = (cosines.argmin(1) if least else cosines.argmax(1)) // real.shape[1]
    return (found == torch.arange(len(made)).repeat_interleave(made.shape[1])).float().mean()


def both(made, real, width=None, right=None):
    """The two symptoms, with what can be mistaken as arguments."""
    return torch.stack(
        [
            wide(made) / wide(real) if width is None else width(made, real),
            belongs(made, real) if right is None else right(made, real),
        ]
    )


def mean_cosine(vectors):
    """Mean cosine of two different vectors of one caption."""
    n, cosines = vectors.shape[1], vectors @ vectors.mT
    return (cosines.sum((1, 2)) - n).div(n * (n - 1)).mean()


SYMPTOMS = Exercise(
    reference=both,
    cases=draws_case,
    mistakes=(
        (
            "the first number counts each vector with itself, whose distance is 0: leave the diagonal out.",
            lambda a, b: both(a, b, width=lambda a, b: wide(a, True) / wide(b, True)),
        ),
        (
            "the first number is not yet divided by that of real pictures.",
            lambda a, b: both(a, b, width=lambda a, b: wide(a)),
        ),
        (
            "the first number is real over made; made over real is asked.",
            lambda a, b: both(a, b, width=lambda a, b: wide(b) / wide(a)),
        ),
        (
            "the first number compares vectors of different captions too: only those of one caption are asked.",
            lambda a, b: both(a, b, width=lambda a, b: wide(a.flatten(0, 1)[None]) / wide(b.flatten(0, 1)[None])),
        ),
        (
            "the first number is made of cosines, which are large where vectors are alike; distances are asked.",
            lambda a, b: both(a, b, width=lambda a, b: mean_cosine(a) / mean_cosine(b)),
        ),
        (
            "the second number looks at the farthest real picture: the largest cosine is the nearest, argmax.",
            lambda a, b: both(a, b, right=lambda a, b: belongs(a, b, least=True)),
        ),
        (
            "the second number asks real pictures for their nearest draw; each draw looks for its nearest picture.",
            lambda a, b: both(a, b, right=lambda a, b: belongs(b, a)),
        ),
        (
            "the second number is a mean cosine; how often the nearest is of the own caption is asked.",
            lambda a, b: both(a, b, right=lambda a, b: (a @ b.mT).mean()),
        ),
    ),
    hints=(
        "How far apart are two draws of one caption, as a share of what two real pictures of it are? And whose is the "
        "nearest real picture?",
        "torch.cdist(made, made) is (M, n, n), with n zeros on each diagonal. Number the real pictures caption by "
        "caption: picture j is of caption j // m.",
        "wide(v) = torch.cdist(v, v).sum((1, 2)).mean() / (n * (n - 1)); the first is wide(made) / wide(real). Then "
        "(made.flatten(0, 1) @ real.flatten(0, 1).T).argmax(1) // m, compared with each draw's own caption.",
    ),
)
