"""Exercises of notebook 07 about the loss: its floor, its gradient, and its sister with sigmoids."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise


def vectors(n: int, dim: int, g: torch.Generator) -> torch.Tensor:
    """Random unit vectors (n, dim)."""
    return F.normalize(torch.randn(n, dim, generator=g), dim=1)


# ------------------------------------------------------------------ captions that repeat
def labels_case(g: torch.Generator, i: int) -> tuple:
    """(labels (N,),): the number of each picture's caption; some come several times."""
    return (torch.randint(4 + i, (10 + 3 * i,), generator=g),)


def counts(labels):
    """How often each label stands in the batch: (N,)."""
    return (labels[:, None] == labels).sum(1).float()


FLOOR = Exercise(
    reference=lambda labels: counts(labels).log().mean(),
    cases=labels_case,
    mistakes=(
        (
            "this is what vectors that say nothing pay, ln N; perfect ones pay only for captions that repeat.",
            lambda labels: torch.tensor(float(len(labels))).log(),
        ),
        (
            "this is the logarithm of the number of different captions; how often does each one repeat?",
            lambda labels: torch.tensor(float(len(labels.unique()))).log(),
        ),
        (
            "the logarithm of a mean is not the mean of logarithms: first log, then mean.",
            lambda labels: counts(labels).mean().log(),
        ),
        ("the pairs are added up; the loss is their mean.", lambda labels: counts(labels).log().sum()),
        ("this logarithm has base 2; cross entropy counts in nats.", lambda labels: counts(labels).log2().mean()),
        (
            "each caption counts once here, but it is paid for by every picture that has it: weigh it by its count.",
            lambda labels: labels.unique(return_counts=True)[1].float().log().mean(),
        ),
        (
            "only the other copies are counted: the own caption is among those that share the probability.",
            lambda labels: (counts(labels) - 1).clamp(min=1).log().mean(),
        ),
        (
            "this counts pictures whose caption repeats; each pays ln k where its caption stands k times.",
            lambda labels: (counts(labels) > 1).float().mean(),
        ),
    ),
    hints=(
        "Equal captions have equal vectors, so no softmax can tell them apart: k of them share the probability.",
        "The best a pair can do is probability 1 / k, which costs ln k. k may differ from pair to pair.",
        "counts = (labels[:, None] == labels).sum(dim=1); then the mean of their logarithms.",
    ),
)


# ------------------------------------------------------------------ temperature, and where the gradient goes
def cosines_case(g: torch.Generator, i: int) -> tuple:
    """(cosines (N, N), temperature)."""
    n = 5 + i
    cosines = vectors(n, 6, g) @ vectors(n, 6, g).T + 0.3 * torch.eye(n)
    return cosines.clamp(-1, 1), (0.05, 0.1, 0.3, 0.07, 0.5)[i]


def share(cosines, temperature, dim=1, divide=True, own=False, whole=False):
    """The hardest wrong one's part of the push, with what can be mistaken as arguments."""
    logits = cosines / temperature if divide else cosines * temperature
    p = logits.flatten().softmax(0).view_as(logits) if whole else logits.softmax(dim)
    wrong = p if own else p.masked_fill(torch.eye(len(p), dtype=torch.bool), 0)
    return wrong.amax(dim) / wrong.sum(dim)


SHARE = Exercise(
    reference=share,
    cases=cosines_case,
    mistakes=(
        ("the cosines are multiplied by the temperature: divide.", lambda c, t: share(c, t, divide=False)),
        (
            "the own caption takes part here: it is pulled, not pushed. Set the diagonal to 0.",
            lambda c, t: share(c, t, own=True),
        ),
        ("these are columns, captions that look for pictures: softmax over dim=1.", lambda c, t: share(c, t, dim=0)),
        ("the temperature is left out.", lambda c, t: share(c, 1.0)),
        (
            "this is its probability; its share of all that is pushed is that, divided by the sum over the wrong ones.",
            lambda c, t: (c / t).softmax(1).masked_fill(torch.eye(len(c), dtype=torch.bool), 0).amax(1),
        ),
        (
            "the average push is compared with the sum: the largest one is asked.",
            lambda c, t: torch.full((len(c),), 1 / (len(c) - 1)),
        ),
        (
            "one number for the batch; one for each picture is asked, (N,).",
            lambda c, t: share(c, t).mean(),
        ),
        (
            "this is the cosine's share without a softmax; the push on a wrong caption is its probability.",
            lambda c, t: (
                c.masked_fill(torch.eye(len(c), dtype=torch.bool), -9).amax(1)
                / c.masked_fill(torch.eye(len(c), dtype=torch.bool), 0).sum(1)
            ),
        ),
    ),
    hints=(
        "The gradient on a logit is p - 1 for the own caption and p for a wrong one.",
        "Among the wrong ones only: the largest p, divided by the sum of their p.",
        "p = (cosines / temperature).softmax(dim=1); p.fill_diagonal_(0); p.amax(dim=1) / p.sum(dim=1).",
    ),
)


# ------------------------------------------------------------------ a yes or no for every pair
def sigmoid_case(g: torch.Generator, i: int) -> tuple:
    """(image_embed, text_embed, scale, bias)."""
    n = 4 + i
    return vectors(n, 6, g), vectors(n, 6, g), 3.0 + i, -1.0 - 0.5 * i


def sigmoid(a, b, scale, bias, sign=1, low=-1.0, over=len):
    """Zhai et al. 2023, algorithm 1, with what can be mistaken as arguments."""
    z = torch.where(torch.eye(len(a), dtype=torch.bool), 1.0, low)
    return -sign * F.logsigmoid(z * (scale * a @ b.T + bias)).sum() / over(a)


SIGMOID = Exercise(
    reference=sigmoid,
    cases=sigmoid_case,
    mistakes=(
        (
            "the sum is divided by N * N; the paper divides by N, the number of pairs.",
            lambda *args: sigmoid(*args, over=lambda a: len(a) ** 2),
        ),
        ("the sum is not divided by N.", lambda *args: sigmoid(*args, over=lambda a: 1)),
        (
            "right up to sign: a loss falls when the fit rises, so the sum is negated.",
            lambda *args: sigmoid(*args, sign=-1),
        ),
        (
            "wrong pairs are multiplied by 0: they need -1, so that their logits are pushed down.",
            lambda *args: sigmoid(*args, low=0.0),
        ),
        ("the bias is missing.", lambda a, b, scale, bias: sigmoid(a, b, scale, 0.0)),
        ("the bias is subtracted.", lambda a, b, scale, bias: sigmoid(a, b, scale, -bias)),
        ("the scale is missing.", lambda a, b, scale, bias: sigmoid(a, b, 1.0, bias)),
        (
            "only the right pairs count: the wrong ones have to be pushed apart.",
            lambda a, b, scale, bias: -F.logsigmoid((scale * a @ b.T + bias).diagonal()).mean(),
        ),
        ("z is turned round: +1 on the diagonal, -1 beside it.", lambda a, b, s, c: sigmoid(a, b, -s, -c)),
        (
            "this is the softmax loss of the notebook: here every pair is a question of its own.",
            lambda a, b, s, c: (
                (
                    F.cross_entropy(s * a @ b.T, torch.arange(len(a)))
                    + F.cross_entropy(s * b @ a.T, torch.arange(len(a)))
                )
                / 2
            ),
        ),
    ),
    hints=(
        "No softmax: each of the N * N pairs is asked alone, does it belong together?",
        "z is 2 * torch.eye(N) - 1; F.logsigmoid(z * logits) is what each pair adds.",
        "logits = scale * image_embed @ text_embed.T + bias; minus F.logsigmoid(z * logits).sum(), divided by N.",
    ),
)
