"""The exercises on what a latent keeps: looks, one scale, the best axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise

PICTURE = (1, 2, 3)  # the axes of one picture in a batch


# ------------------------------------------------------------------ one layer of the perceptual distance
def features_case(g: torch.Generator, i: int) -> tuple:
    """(a, b): feature maps of one layer, (B, C, H, W)."""
    shape = (2, 5 + i, 4, 4 + i)
    a = torch.randn(shape, generator=g) * 2
    return a, a + torch.randn(shape, generator=g)


def perceptual(a, b, unit=lambda x: F.normalize(x, dim=1), over=lambda d: d.sum(1).mean((1, 2))):
    """Squared distance of unit vectors at each place, averaged over the places."""
    return over((unit(a) - unit(b)).square())


PERCEPTUAL = Exercise(
    reference=lambda a, b: perceptual(a, b),
    cases=features_case,
    mistakes=(
        (
            "the vectors are not brought to unit length: F.normalize(a, dim=1).",
            lambda a, b: perceptual(a, b, lambda x: x),
        ),
        (
            "each channel's map is brought to unit length; it is the vector of the C channels at each place: dim=1.",
            lambda a, b: perceptual(a, b, lambda x: F.normalize(x.flatten(2), dim=2).view_as(x)),
        ),
        (
            "the channels are averaged; a squared distance adds them up.",
            lambda a, b: perceptual(a, b, over=lambda d: d.mean(PICTURE)),
        ),
        (
            "the places are added; their mean is asked, so that large maps do not count more.",
            lambda a, b: perceptual(a, b, over=lambda d: d.sum(PICTURE)),
        ),
        (
            "a root is taken: the squared distance is asked.",
            lambda a, b: perceptual(a, b, over=lambda d: d.sum(1).sqrt().mean((1, 2))),
        ),
        (
            "the whole map is brought to unit length at once; do it at each place: dim=1.",
            lambda a, b: perceptual(a, b, lambda x: F.normalize(x.flatten(1), dim=1).view_as(x)),
        ),
        (
            "both pictures share one number here: keep the first axis.",
            lambda a, b: perceptual(a, b).mean().expand(len(a)),
        ),
        (
            "each row of a map is brought to unit length; it is the vector of the C channels at each place: dim=1.",
            lambda a, b: perceptual(a, b, lambda x: F.normalize(x, dim=-1)),
        ),
        (
            "the gap is brought to unit length, and so always has length 1: normalize a and b, then subtract.",
            lambda a, b: perceptual(F.normalize(a - b, dim=1), torch.zeros_like(a), lambda x: x),
        ),
        ("only a is brought to unit length: b too.", lambda a, b: perceptual(F.normalize(a, dim=1), b, lambda x: x)),
        (
            "this is the cosine, which is 1 for equal features; the squared distance of unit vectors is 2 - 2 cosine.",
            lambda a, b: F.cosine_similarity(a, b, dim=1).mean((1, 2)),
        ),
        (
            "these are absolute gaps: square them.",
            lambda a, b: (F.normalize(a, dim=1) - F.normalize(b, dim=1)).abs().sum(1).mean((1, 2)),
        ),
        (
            "the places are averaged too early, so that a moved edge is forgiven: first the distance at each place.",
            lambda a, b: (F.normalize(a, dim=1) - F.normalize(b, dim=1)).mean((2, 3)).square().sum(1),
        ),
    ),
    hints=(
        "At each place stands a vector of C numbers. Only its direction counts.",
        "F.normalize(a, dim=1) has unit length at each place; .square().sum(dim=1) of the gap is (B, H, W).",
        "gap = F.normalize(a, dim=1) - F.normalize(b, dim=1); gap.square().sum(dim=1).mean(dim=(1, 2)).",
    ),
)


# ------------------------------------------------------------------ the scale factor
def latents_case(g: torch.Generator, i: int) -> tuple:
    """(mean, logvar) of a batch whose channels lie around different means and whose clouds are not narrow."""
    center = torch.randn(1, 4, 1, 1, generator=g) + 1
    mean = center + (1 + i) * torch.randn(6, 4, 4, 4, generator=g)
    return mean, torch.randn(mean.shape, generator=g) + 0.5  # else the mean of the logarithms is about 0


def scale(mean, logvar, spread=lambda m: m.var(correction=0), own=lambda lv: lv.exp().mean()):
    """1 / standard deviation of drawn latents."""
    return (spread(mean) + own(logvar)).rsqrt()


SCALE = Exercise(
    reference=lambda mean, logvar: scale(mean, logvar),
    cases=latents_case,
    tolerance=2e-3,  # n or n - 1
    mistakes=(
        (
            "this is the standard deviation; the scale is what we multiply by, so 1 over it.",
            lambda m, lv: 1 / scale(m, lv),
        ),
        ("this is 1 / variance: take the root first.", lambda m, lv: scale(m, lv) ** 2),
        ("this is the variance; the scale is 1 over its root.", lambda m, lv: scale(m, lv) ** -2),
        (
            "the clouds' own noise is missing: a drawn latent is wider than the means.",
            lambda m, lv: scale(m, lv, own=lambda lv: 0.0),
        ),
        (
            "the mean of the logarithms is not the logarithm of the mean: exp first, then mean.",
            lambda m, lv: scale(m, lv, own=lambda lv: lv.mean().exp()),
        ),
        (
            "this adds the clouds' standard deviation; variances add up: logvar.exp().mean().",
            lambda m, lv: scale(m, lv, own=lambda lv: (lv / 2).exp().mean()),
        ),
        (
            "this is the root mean square: subtract the mean of all numbers, as a standard deviation does.",
            lambda m, lv: scale(m, lv, spread=lambda m: m.square().mean()),
        ),
        (
            "one scale for each channel; here all numbers are taken together.",
            lambda m, lv: scale(m, lv, lambda m: m.var((0, 2, 3), correction=0), lambda lv: lv.exp().mean((0, 2, 3))),
        ),
        (
            "the variance of a cloud is exp(logvar): the logarithm itself is added here.",
            lambda m, lv: scale(m, lv, own=lambda lv: lv.mean()),
        ),
        (
            "standard deviations are added; variances add up, and the root comes last.",
            lambda m, lv: 1 / (m.std(correction=0) + (lv / 2).exp().mean()),
        ),
        (
            "standard deviations are added; variances add up, and the root comes last.",
            lambda m, lv: 1 / (m.std(correction=0) + lv.exp().mean().sqrt()),
        ),
        (
            "each channel's own mean is subtracted; take all numbers together.",
            lambda m, lv: scale(m, lv, lambda m: m.var((0, 2, 3), correction=0).mean()),
        ),
    ),
    hints=(
        "Variances of independent things add up: where the cloud lies, and where in the cloud the draw falls.",
        "The means spread by mean.var(); a cloud has the variance logvar.exp(), on average logvar.exp().mean().",
        "1 / (mean.var() + logvar.exp().mean()).sqrt().",
    ),
)


# ------------------------------------------------------------------ the linear autoencoder
def patches_case(g: torch.Generator, i: int) -> tuple:
    """(patches (N, D), channels): patches far from 0 whose axes differ clearly in variance."""
    dim = 6 + i
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=g)).Q
    sizes = 3 * 0.6 ** torch.arange(dim)
    return torch.randn(60, dim, generator=g) * sizes @ turn + torch.randn(dim, generator=g) * 2, 2 + i % 3


def axes(patches):
    """The axes (D, D) of centred patches as rows, the best first."""
    return torch.linalg.svd(patches, full_matrices=False).Vh


def around(patches, mean, rebuild):
    """Rebuild patches around a mean."""
    return mean + rebuild(patches - mean)


def linear(patches, channels, centre=True, first=0, back=True):
    """Rebuild patches from their coordinates along the axes of most variance."""
    mean = patches.mean(0) if centre else torch.zeros_like(patches[0])
    kept = axes(patches - mean)[first:][:channels]  # (C, D)
    return (patches - mean) @ kept.T @ kept + (mean if back else 0)


LINEAR = Exercise(
    reference=lambda patches, channels: linear(patches, channels),
    cases=patches_case,
    tolerance=1e-3,
    mistakes=(
        ("the mean is not subtracted: the first axis is then spent on it.", lambda p, c: linear(p, c, centre=False)),
        ("the mean is subtracted, but not added back.", lambda p, c: linear(p, c, back=False)),
        (
            "these are the axes of least variance: eigh sorts upwards, so the best axes are its last columns.",
            lambda p, c: linear(p, c, first=p.shape[1] - c),
        ),
        ("the best axis is left out.", lambda p, c: linear(p, c, first=1)),
        ("one axis too many is kept.", lambda p, c: linear(p, c + 1)),
        (
            "these are the coordinates z; go back to patches with A.T, and add the mean.",
            lambda p, c: (p - p.mean(0)) @ torch.linalg.svd(p - p.mean(0), full_matrices=False).Vh[:c].T,
        ),
        (
            "this keeps the first numbers of each patch; keep the first of its coordinates along the axes.",
            lambda p, c: torch.where(torch.arange(p.shape[1]) < c, p, p.mean(0)),
        ),
        (
            "these are columns of svd's third answer; its rows are the axes: A = Vt[:channels].T.",
            lambda p, c: around(p, p.mean(0), lambda q: q @ axes(q)[:, :c] @ axes(q)[:, :c].T),
        ),
        (
            "the singular values are missing: U holds coordinates of size 1, U * S the real ones.",
            lambda p, c: around(
                p, p.mean(0), lambda q: torch.linalg.svd(q, full_matrices=False).U[:, :c] @ axes(q)[:c]
            ),
        ),
        (
            "the mean is added twice: it must be subtracted before the coordinates are taken.",
            lambda p, c: linear(p, c) + p.mean(0) @ axes(p - p.mean(0))[:c].T @ axes(p - p.mean(0))[:c],
        ),
        (
            "the mean is subtracted for the axes only; the coordinates need it too, and the result needs it back.",
            lambda p, c: p @ axes(p - p.mean(0))[:c].T @ axes(p - p.mean(0))[:c],
        ),
        (
            "this subtracts one number; the mean patch has one for each of its D numbers: patches.mean(dim=0).",
            lambda p, c: around(p, p.mean(), lambda q: q @ axes(q)[:c].T @ axes(q)[:c]),
        ),
        (
            "each patch loses its own mean; the mean patch is asked: patches.mean(dim=0).",
            lambda p, c: around(p, p.mean(1, keepdim=True), lambda q: q @ axes(q)[:c].T @ axes(q)[:c]),
        ),
    ),
    hints=(
        "Subtract the mean patch, find the axes along which patches differ most, keep the first, go back.",
        "torch.linalg.svd(patches - mean, full_matrices=False) gives the axes as rows of its third answer, "
        "the best first.",
        "A = Vt[:channels].T; return mean + (patches - mean) @ A @ A.T.",
    ),
)
