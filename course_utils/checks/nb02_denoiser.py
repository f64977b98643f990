"""The exercise on the best possible denoiser of a finite data set, when a label of the picture is known."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise


def label_case(g: torch.Generator, i: int) -> tuple:
    """(xt (B, D), data (N, D), labels (N,), wanted, alpha_bar_t): the last case lies where exp() underflows."""
    data, labels = torch.randn(12, 2 + i, generator=g), torch.randperm(12, generator=g) % 3
    wanted, alpha_bar_t = int(torch.randint(3, (), generator=g)), torch.rand((), generator=g) * 0.6 + 0.2
    if i == 4:
        return 30 * torch.randn(4, 2 + i, generator=g), 10 * data, labels, wanted, torch.tensor(0.99)
    x0 = data[labels == wanted]
    xt = alpha_bar_t.sqrt() * x0 + (1 - alpha_bar_t).sqrt() * torch.randn(x0.shape, generator=g)
    return xt, data, labels, wanted, alpha_bar_t


def squared_distances(xt, centres):
    """(B, D), (N, D) -> (B, N)."""
    return ((xt[:, None] - centres[None]) ** 2).sum(-1)


def _logits(xt, data, a):
    return -squared_distances(xt, a.sqrt() * data) / (2 * (1 - a))


def ideal_with_label(xt, data, labels, wanted, alpha_bar_t):
    """The posterior mean of x0 over the data that carry the label, (B, D)."""
    data = data[labels == wanted]
    return torch.softmax(_logits(xt, data, alpha_bar_t), dim=1) @ data


def _among(mean):
    """A mistaken mean(xt, data, alpha_bar_t) of the right data."""
    return lambda xt, data, labels, wanted, a: mean(xt, data[labels == wanted], a)


def _weighted(logits):
    """The softmax of other logits(xt, data, alpha_bar_t) over the right data."""
    return _among(lambda xt, data, a: torch.softmax(logits(xt, data, a), dim=1) @ data)


def _underflow(xt, data, a):
    weight = _logits(xt, data, a).exp()
    return weight / weight.sum(1, keepdim=True) @ data


def _zeroed_weights(xt, data, labels, wanted, a):
    return (torch.softmax(_logits(xt, data, a), dim=1) * (labels == wanted)) @ data


def _zeroed_logits(xt, data, labels, wanted, a):
    return torch.softmax(_logits(xt, data, a) * (labels == wanted), dim=1) @ data


KNOWN_LABEL = Exercise(
    reference=ideal_with_label,
    cases=label_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the label has no effect: this is the mean over all data.",
            lambda xt, d, labels, wanted, a: torch.softmax(_logits(xt, d, a), dim=1) @ d,
        ),
        (
            "the other labels' weights are 0, but those that are left no longer add up to 1: choose the data first, "
            "then take the softmax.",
            _zeroed_weights,
        ),
        (
            "an exponent of 0 is the largest there is: data of other labels weigh most now. Leave them out, or set "
            "their exponent to minus infinity.",
            _zeroed_logits,
        ),
        (
            "these are the data of all the other labels.",
            lambda xt, d, labels, wanted, a: _weighted(_logits)(xt, d, labels != wanted, True, a),
        ),
        (
            "this is the mean of the label's data, whatever xt is.",
            _among(lambda xt, d, a: d.mean(0).expand(len(xt), -1)),
        ),
        (
            "the data are not faded: xt lies near sqrt(alpha_bar) * x_i, not near x_i.",
            _weighted(lambda xt, d, a: -squared_distances(xt, d) / (2 * (1 - a))),
        ),
        (
            "the data are faded by alpha_bar; a picture fades by its root.",
            _weighted(lambda xt, d, a: -squared_distances(xt, a * d) / (2 * (1 - a))),
        ),
        (
            "the exponent divides by twice the variance, 1 - alpha_bar, not by its root.",
            _weighted(lambda xt, d, a: _logits(xt, d, a) * (1 - a).sqrt()),
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
            "this is the nearest data point; the mean weighs all of them.",
            _among(lambda xt, d, a: d[_logits(xt, d, a).argmax(1)]),
        ),
        (
            "the mean is of the faded data: weigh x_i itself, without sqrt(alpha_bar).",
            lambda xt, d, labels, wanted, a: a.sqrt() * ideal_with_label(xt, d, labels, wanted, a),
        ),
        (
            "nan far from the data: exp() of a large negative number is 0, and 0 / 0 follows; torch.softmax subtracts "
            "the largest exponent first.",
            _among(_underflow),
        ),
    ),
    hints=(
        "Bayes' rule again: which pictures could have become this xt, now that we know their label?",
        "A picture of another label has probability 0, before xt is seen and after; the others compete.",
        "Choose the rows of data that carry the label first. What follows is the ideal guess of idea 1, on those rows.",
    ),
)
