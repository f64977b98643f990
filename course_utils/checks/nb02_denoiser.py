"""The exercise on the best possible denoiser of a finite data set."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise


def ideal_case(g: torch.Generator, i: int) -> tuple:
    """(xt (B, D), data (N, D), alpha_bar_t): the last case lies far from all data, where exp() underflows."""
    data = torch.randn(12, 2 + i, generator=g)
    alpha_bar_t = torch.rand((), generator=g) * 0.6 + 0.2
    if i == 4:
        return 30 * torch.randn(4, 2 + i, generator=g), 10 * data, torch.tensor(0.99)
    x0 = data[torch.randint(12, (4,), generator=g)]
    return alpha_bar_t.sqrt() * x0 + (1 - alpha_bar_t).sqrt() * torch.randn(x0.shape, generator=g), data, alpha_bar_t


def squared_distances(xt, centres):
    """(B, D), (N, D) -> (B, N)."""
    return ((xt[:, None] - centres[None]) ** 2).sum(-1)


def _logits(xt, data, a):
    return -squared_distances(xt, a.sqrt() * data) / (2 * (1 - a))


def ideal_denoiser(xt, data, alpha_bar_t):
    """The posterior mean of x0 over the data, (B, D)."""
    return torch.softmax(_logits(xt, data, alpha_bar_t), dim=1) @ data


def _underflow(xt, data, a):
    weight = _logits(xt, data, a).exp()
    return weight / weight.sum(1, keepdim=True) @ data


def _weighted(logits):
    """A mistaken denoiser: the softmax of other logits(xt, data, alpha_bar_t)."""
    return lambda xt, data, a: torch.softmax(logits(xt, data, a), dim=1) @ data


IDEAL_DENOISER = Exercise(
    reference=ideal_denoiser,
    cases=ideal_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the data are not faded: xt lies near sqrt(alpha_bar) * x_i, not near x_i.",
            _weighted(lambda xt, d, a: -squared_distances(xt, d) / (2 * (1 - a))),
        ),
        (
            "the 2 is missing: a Gaussian's exponent is the squared distance over twice the variance.",
            _weighted(lambda xt, d, a: 2 * _logits(xt, d, a)),
        ),
        (
            "right up to sign in the exponent: the nearest point, not the farthest, weighs most.",
            _weighted(lambda xt, d, a: -_logits(xt, d, a)),
        ),
        (
            "the distance is not squared.",
            _weighted(lambda xt, d, a: -squared_distances(xt, a.sqrt() * d).sqrt() / (2 * (1 - a))),
        ),
        (
            "the variance of the noise is 1 - alpha_bar, not its square root.",
            _weighted(lambda xt, d, a: -squared_distances(xt, a.sqrt() * d) / (2 * (1 - a).sqrt())),
        ),
        (
            "this divides by alpha_bar: the variance of the noise in xt is 1 - alpha_bar.",
            _weighted(lambda xt, d, a: -squared_distances(xt, a.sqrt() * d) / (2 * a)),
        ),
        (
            "the softmax runs over the wrong axis: for each xt the weights of all data add up to 1.",
            lambda xt, d, a: torch.softmax(_logits(xt, d, a), dim=0) @ d,
        ),
        (
            "this is the nearest data point; the mean weighs all of them.",
            lambda xt, d, a: d[_logits(xt, d, a).argmax(1)],
        ),
        ("this is the mean of the data, whatever xt is.", lambda xt, d, a: d.mean(0).expand(len(xt), -1)),
        (
            "these are the weights: multiply them with the data.",
            lambda xt, d, a: torch.softmax(_logits(xt, d, a), dim=1),
        ),
        (
            "the mean is of the faded data: weigh x_i itself, without sqrt(alpha_bar).",
            lambda xt, d, a: a.sqrt() * ideal_denoiser(xt, d, a),
        ),
        (
            "nan far from the data: exp() of a large negative number is 0, and 0 / 0 follows; torch.softmax subtracts "
            "the largest exponent first.",
            _underflow,
        ),
    ),
    hints=(
        "Which data points could have become this xt? Weigh each by how likely that is, and take the mean.",
        "xt given x_i is Gaussian around sqrt(alpha_bar) * x_i with variance 1 - alpha_bar; "
        "softmax turns the exponents into weights that add up to 1.",
        "d2 = ((xt[:, None] - alpha_bar_t.sqrt() * data[None]) ** 2).sum(-1); "
        "torch.softmax(-d2 / (2 * (1 - alpha_bar_t)), dim=1) @ data.",
    ),
)
