"""The exercises on decoders: the answer that a loss wants, the answer to noise, and what attention costs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise


# ------------------------------------------------------------------ the best guess in absolute error
def candidates_case(g: torch.Generator, i: int) -> tuple:
    """(candidates (K, C, H, W), probability (K,)): K is odd and even, and nobody has half of the probability."""
    k = 5 + i
    probability = 0.1 + torch.rand(k, generator=g)
    while (probability / probability.sum()).max() > 0.45:
        probability = 0.1 + torch.rand(k, generator=g)
    return torch.randn(k, 3, 4, 5, generator=g), probability / probability.sum()


def weighted_quantile(candidates, probability, level=0.5, sort=lambda p, order: p[order]):
    """The first value of each pixel below which `level` of the probability lies, with what can be mistaken."""
    values, order = candidates.sort(dim=0)
    reached = sort(probability, order).cumsum(dim=0)
    return values.gather(0, (reached < level).sum(dim=0, keepdim=True).clamp(max=len(values) - 1))[0]


def expected_error(candidates, probability, error):
    """What each candidate would cost as the answer: (K,)."""
    gaps = error(candidates[:, None] - candidates[None]).flatten(2).mean(2)  # (K, K)
    return gaps @ probability


def broadcast(probability, order):
    """The probabilities in their old order: sorted values meet the wrong ones."""
    return probability.view(-1, 1, 1, 1).expand(order.shape)


MEDIAN = Exercise(
    reference=lambda candidates, probability: weighted_quantile(candidates, probability),
    cases=candidates_case,
    mistakes=(
        (
            "this is the mean, which squared error wants; absolute error wants the median.",
            lambda c, p: (p.view(-1, 1, 1, 1) * c).sum(0),
        ),
        (
            "this is the plain mean, without the probabilities, and for squared error: the weighted median is asked.",
            lambda c, p: c.mean(0),
        ),
        (
            "this is the median as if all candidates were equally likely: half of the *probability* lies below.",
            lambda c, p: c.median(0).values,
        ),
        ("this is the likeliest candidate, whatever the others say.", lambda c, p: c[p.argmax()]),
        (
            "this chooses one whole candidate; each pixel may take another one's value.",
            lambda c, p: c[expected_error(c, p, torch.abs).argmin()],
        ),
        (
            "the values are sorted, but the probabilities are not: carry them along, probability[order].",
            lambda c, p: weighted_quantile(c, p, sort=broadcast),
        ),
        (
            "this goes one value too far: the first value that reaches one half is the answer.",
            lambda c, p: one_further(c, p, 1),
        ),
        (
            "this stops one value too early: the last one below one half is not yet the median.",
            lambda c, p: one_further(c, p, -1),
        ),
        (
            "the candidates are multiplied by their probabilities before the median: a median weighs by counting.",
            lambda c, p: (p.view(-1, 1, 1, 1) * c).median(0).values,
        ),
        (
            "the candidates are multiplied by their probabilities before the median: a median weighs by counting.",
            lambda c, p: (len(p) * p.view(-1, 1, 1, 1) * c).median(0).values,
        ),
    ),
    hints=(
        "Pixel by pixel. Move the answer a little up: the error rises by the probability below it, and falls by that "
        "above it.",
        "values, order = candidates.sort(dim=0); probability[order].cumsum(dim=0) is how much lies at or below each.",
        "Count, for each pixel, how many sums are still below 0.5: so far up the sorted values lies the answer.",
    ),
)


def one_further(candidates, probability, by):
    """The value beside the median, `by` places away."""
    values, order = candidates.sort(dim=0)
    place = (probability[order].cumsum(dim=0) < 0.5).sum(dim=0, keepdim=True) + by
    return values.gather(0, place.clamp(0, len(values) - 1))[0]


# ------------------------------------------------------------------ how strongly a decoder answers to noise
def decoder_case(g: torch.Generator, i: int) -> tuple:
    """(decode, z, eps, level): a small decoder that is not linear, latents far from size 1 and off the middle."""
    kernel, bias = 0.1 * torch.randn(4, 3, 4, 4, generator=g), torch.randn(3, generator=g)
    z = (1.5 + i) * torch.randn(3, 4, 3, 3 + i, generator=g) + torch.randn(1, 4, 1, 1, generator=g)
    level = (0.05, 0.1, 0.2, 0.3, 0.02)[i]
    return lambda z: F.conv_transpose2d(z, kernel, bias, stride=4).sin(), z, torch.randn(z.shape, generator=g), level


def gain(decode, z, eps, level, size=lambda z: z.std(), against=None, measure=None, over=lambda level: level):
    """RMS change of the picture a unit of noise, with what can be mistaken as arguments."""
    change = decode(z + level * size(z) * eps) - (decode(z) if against is None else against(z))
    return (change.square().mean().sqrt() if measure is None else measure(change)) / over(level)


GAIN = Exercise(
    reference=gain,
    cases=decoder_case,
    tolerance=5e-3,  # n or n - 1
    mistakes=(
        (
            "the noise has size `level`, not `level` standard deviations of z: multiply by z.std().",
            lambda *a: gain(*a, size=lambda z: 1.0),
        ),
        (
            "the noise is multiplied by the variance of z; its root is asked.",
            lambda *a: gain(*a, size=lambda z: z.var()),
        ),
        (
            "each channel has its own standard deviation here; one for all numbers is asked.",
            lambda *a: gain(*a, size=lambda z: z.std((0, 2, 3), keepdim=True)),
        ),
        ("the change is not divided by the level.", lambda *a: gain(*a, over=lambda level: 1.0)),
        (
            "this is the mean square: take the root before dividing by the level.",
            lambda *a: gain(*a, measure=lambda c: c.square().mean()),
        ),
        (
            "this is the mean absolute change; the root of the mean square is asked.",
            lambda *a: gain(*a, measure=lambda c: c.abs().mean()),
        ),
        ("plus and minus cancel in a mean: square first.", lambda *a: gain(*a, measure=lambda c: c.mean())),
        (
            "the noisy picture itself is measured, not its change: subtract decode(z).",
            lambda *a: gain(*a, against=lambda z: 0.0),
        ),
        (
            "the noise alone is decoded; it must be added to z.",
            lambda decode, z, eps, level: (decode(level * z.std() * eps) - decode(z)).square().mean().sqrt() / level,
        ),
        (
            "the decoded noise is measured: a decoder is not linear, so decode z with it and without, and subtract.",
            lambda decode, z, eps, level: decode(level * z.std() * eps).square().mean().sqrt() / level,
        ),
        (
            "one number for each picture; one for all is asked.",
            lambda *a: gain(*a, measure=lambda c: c.square().mean((1, 2, 3)).sqrt()),
        ),
        (
            "the change is divided by the noise's size in z; the level, its share of z's spread, is asked.",
            lambda decode, z, eps, level: gain(decode, z, eps, level) / z.std(),
        ),
    ),
    hints=(
        "Decode twice, with the noise and without, and compare.",
        "The noise is level * z.std() * eps, added to z. A root mean square is .square().mean().sqrt().",
        "change = decode(z + noise) - decode(z); its root mean square, divided by level.",
    ),
)


# ------------------------------------------------------------------ the work of attention
def sizes_case(g: torch.Generator, i: int) -> tuple:
    """(places, words, dim): three different whole numbers."""
    places, words, dim = (int(torch.randint(low, 4 * low, (1,), generator=g)) for low in (64, 7, 16))
    return places, words, dim


ATTENTION = Exercise(
    reference=lambda places, words, dim: 4 * places * (places + words) * dim,
    cases=sizes_case,
    mistakes=(
        (
            "only one of the two products is counted: queries x keys, and weights x values.",
            lambda n, m, d: 2 * n * (n + m) * d,
        ),
        (
            "a multiplication and an addition count 2: this counts multiplications only, of one product.",
            lambda n, m, d: n * (n + m) * d,
        ),
        ("the cross-attention is missing: each place asks each word too.", lambda n, m, d: 4 * n * n * d),
        ("the self-attention is missing: each place asks each place.", lambda n, m, d: 4 * n * m * d),
        (
            "words do not ask: the queries of cross-attention are places, its keys are words.",
            lambda n, m, d: 4 * (n * n + m * m) * d,
        ),
        (
            "here words and places attend to one joint list; the words ask nobody.",
            lambda n, m, d: 4 * (n + m) ** 2 * d,
        ),
        (
            "self-attention goes by pairs of places: this grows with one place at a time.",
            lambda n, m, d: 4 * (n + m) * d,
        ),
        (
            "these are the projections to queries, keys and values; the two products of attention are asked.",
            lambda n, m, d: 2 * 3 * n * d * d,
        ),
        (
            "dim enters once: each pair of places costs one dot product of length dim.",
            lambda n, m, d: 4 * n * (n + m) * d * d,
        ),
    ),
    hints=(
        "How many dot products does queries x keys need, and how long is each?",
        "Self-attention: places * places dot products of length dim, 2 FLOP a term; weights x values costs the same.",
        "Two products, 2 FLOP a term: 4 * dim for each pair (place, place) and each pair (place, word).",
    ),
)
