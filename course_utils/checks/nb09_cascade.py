"""Exercises of notebook 09: what a level costs, what a long skip contributes, and which stage of a cascade is ill."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise


# ------------------------------------------------------------------ shrink by means, enlarge by repeating
def blocks(x: torch.Tensor, side: int) -> torch.Tensor:
    """The means of pictures (B, C, H, W) over side x side equal blocks."""
    return F.adaptive_avg_pool2d(x, side)


def spread(small: torch.Tensor, side: int) -> torch.Tensor:
    """Each number of (B, C, h, w) repeated over its block, (B, C, side, side)."""
    return F.interpolate(small, (side, side), mode="nearest")


# ------------------------------------------------------------------ what a level costs
def levels_case(g: torch.Generator, i: int) -> tuple:
    """(channels (L,), num_blocks (L,), side): widths that do not always double, blocks that do not always grow."""
    count = (2, 4, 3, 5, 4)[i]
    channels = 8 * torch.randint(2, 17, (count,), generator=g)
    num_blocks = torch.randint(2, 9, (count,), generator=g)
    return channels, num_blocks, 2**count * int(torch.randint(2, 5, (), generator=g))


def costs(channels, num_blocks, side, first=1, convs=2, taps=9, kept=None, places=None, fold=1):
    """Parameters, multiply-adds and numbers put out of each level, with what can be mistaken as arguments."""
    sides = side // 2 ** (torch.arange(len(channels)) + first)
    area = sides**2 if places is None else places(sides)
    weights = convs * taps * num_blocks * channels**2
    out = convs * num_blocks * channels * area if kept is None else kept(channels, num_blocks, area)
    return torch.stack([weights, fold * weights * area, out])


COST = Exercise(
    reference=costs,
    cases=levels_case,
    mistakes=(
        (
            "the first level works at the full side here; a DBlock downsamples first, so it works at half of it.",
            lambda *args: costs(*args, first=0),
        ),
        ("each block has two convolutions; this counts one.", lambda *args: costs(*args, convs=1)),
        ("a 3x3 convolution has 9 weights for each pair of channels.", lambda *args: costs(*args, taps=1)),
        ("a 3x3 convolution has 9 weights for each pair of channels, not 3.", lambda *args: costs(*args, taps=3)),
        (
            "every level works at half the side here; each halves it again.",
            lambda c, n, side: costs(c, n, side, places=lambda s: torch.full_like(s, side // 2) ** 2),
        ),
        (
            "the second and third row count one side of the picture; there are side x side places.",
            lambda *args: costs(*args, places=lambda s: s),
        ),
        (
            "the second row counts multiplication and addition apart; a pair of them counts once.",
            lambda *args: costs(*args, fold=2),
        ),
        (
            "the third row has channels squared: a convolution puts out as many numbers as channels x places.",
            lambda *args: costs(*args, kept=lambda c, n, area: 2 * n * c**2 * area),
        ),
        (
            "the third row counts one block of each level; every block keeps its own.",
            lambda *args: costs(*args, kept=lambda c, n, area: 2 * c * area),
        ),
        (
            "the third row counts one convolution a block; both results are kept for the gradient.",
            lambda *args: costs(*args, kept=lambda c, n, area: n * c * area),
        ),
    ),
    hints=(
        "Count one convolution first: weights, places at which each is used, numbers that come out.",
        "9 C^2 weights, each used once at every place: 9 C^2 s^2 multiply-adds; C s^2 numbers come out. The first level"
        " works at side / 2, the next at side / 4.",
        "s = side // 2 ** (torch.arange(len(channels)) + 1); two convolutions a block; torch.stack the three rows.",
    ),
)


# ------------------------------------------------------------------ how much of a sum is the skip's
def joined_case(g: torch.Generator, i: int) -> tuple:
    """(h (B, C, H, W), weight (C_out, C, k, k), width): what came up, joined to a skip from channel `width` on."""
    width, skip, kernel = (6, 4, 3, 8, 5)[i], (3, 7, 8, 4, 6)[i], (1, 3, 1, 3, 3)[i]
    common = 0.7 * torch.randn(2, 1, 5, 5, generator=g) + 0.4  # what both parts show, so that they do not cancel
    h = common + torch.randn(2, width + skip, 5, 5, generator=g)
    h[:, width:] *= 0.4 + 1.2 * torch.rand((), generator=g)
    weight = 0.2 * torch.randn(4, width + skip, kernel, kernel, generator=g) + 0.1
    return h, weight, width


def of_skip(h, weight, width, strength=lambda y: y.square().mean(), whole=None, padding="same"):
    """The skip's share in what a convolution puts out, with what can be mistaken as arguments."""
    parts = [strength(F.conv2d(h[:, c], weight[:, c], padding=padding)) for c in (slice(width), slice(width, None))]
    return parts[1] / (sum(parts) if whole is None else whole(h, weight, parts))


SKIPS = Exercise(
    reference=of_skip,
    cases=joined_case,
    mistakes=(
        (
            "this is the skip's share of what goes in; the weights have a say in what comes out.",
            lambda h, weight, n: h[:, n:].square().sum() / h.square().sum(),
        ),
        (
            "this is the skip's share of the weights; what goes in has a say too, and 1/sqrt(2) acts on that.",
            lambda h, weight, n: weight[:, n:].square().sum() / weight.square().sum(),
        ),
        (
            "this is the share of what came from below; the skip's channels begin at width.",
            lambda *args: 1 - of_skip(*args),
        ),
        (
            "divided by the mean square of both together, in which the parts cancel or help each other: no share.",
            lambda *args: of_skip(*args, whole=lambda h, w, parts: F.conv2d(h, w, padding="same").square().mean()),
        ),
        (
            "the skip is compared with the other part; its share of both is asked.",
            lambda *args: of_skip(*args, whole=lambda h, w, parts: parts[0]),
        ),
        (
            "roots are compared: strengths of parts add up as mean squares, not as their roots.",
            lambda *args: of_skip(*args, strength=lambda y: y.square().mean().sqrt()),
        ),
        (
            "var takes the mean away first; the mean square is asked.",
            lambda *args: of_skip(*args, strength=lambda y: y.var()),
        ),
        (
            "these are the last `width` channels; the skip's begin at width: h[:, width:].",
            lambda h, weight, n: of_skip(h, weight, h.shape[1] - n),
        ),
        (
            "the channels are cut in the middle; the skip's begin at width.",
            lambda h, weight, n: of_skip(h, weight, h.shape[1] // 2),
        ),
        (
            "the border is missing: the network's 3x3 convolutions pad with 1, its 1x1 with 0.",
            lambda *args: of_skip(*args, padding=0),
        ),
    ),
    hints=(
        "A convolution of joined channels is a sum: one part from the first channels, one from the others.",
        "Cut h and the weight's second axis at width, run the convolution on each part alone, compare mean squares.",
        "F.conv2d(h[:, width:], weight[:, width:], padding=weight.shape[-1] // 2) is the skip's part; the other one "
        "alike, and the share is one mean square over the sum of both.",
    ),
)


# ------------------------------------------------------------------ which stage is ill
def stage_case(g: torch.Generator, i: int) -> tuple:
    """(x (B, 3, H, W), small (B, 3, h, w), real like x): with faults handed on, faults of its own, other details."""
    n, f, side = 3 + i % 2, (2, 4, 3, 4, 5)[i], (5, 3, 4, 4, 3)[i]
    inherited, added = 0.05 + 0.4 * torch.rand(2, generator=g)
    texture = torch.linspace(0.1, 0.6, n).view(-1, 1, 1, 1)  # some pictures have more details than others

    def details():
        return texture * torch.randn(n, 3, f * side, f * side, generator=g)

    coarse = 0.5 * torch.randn(n, 3, side, side, generator=g)
    uneven = torch.linspace(0.5, 1.5, n).view(-1, 1, 1, 1)
    small = coarse + inherited * uneven * torch.randn(coarse.shape, generator=g)
    painted = small + added * uneven * torch.randn(coarse.shape, generator=g)
    strength = (0.3, 1.4, 0.7, 0.1, 1.8)[i] * (0.9 + 0.2 * torch.rand((), generator=g))
    return (
        spread(painted, f * side) + strength * details() * uneven,
        small,
        spread(coarse, f * side) + details(),
    )


def fine(x, small):
    """What is left of x when its block means are taken away."""
    return x - spread(blocks(x, small.shape[-1]), x.shape[-1])


def root(d):
    """Root of the mean square of all numbers."""
    return d.square().mean().sqrt()


def findings(x, small, real, inherited=None, added=None, detail=None, size=root, shrink=blocks):
    """The three numbers that tell stages apart, with what can be mistaken as arguments."""
    side = small.shape[-1]
    return torch.stack(
        [
            size(small - shrink(real, side)) if inherited is None else inherited(x, small, real),
            size(shrink(x, side) - small) if added is None else added(x, small, real),
            size(fine(x, small)) / size(fine(real, small)) if detail is None else detail(x, small, real),
        ]
    )


def every_pixel(x, side):
    """One pixel of each block."""
    return F.interpolate(x, (side, side), mode="nearest")


def one_by_one(x, small, real):
    """The three numbers of each picture, then their means."""
    return torch.stack([findings(*(v[k : k + 1] for v in (x, small, real))) for k in range(len(x))]).mean(0)


STAGE = Exercise(
    reference=findings,
    cases=stage_case,
    mistakes=(
        (
            "the second number compares with the real picture, and counts what was handed on too: compare with small.",
            lambda *args: findings(*args, added=lambda x, small, real: root(blocks(x - real, small.shape[-1]))),
        ),
        (
            "the first number compares x with the real picture: this stage's faults are in it. Take what it was given.",
            lambda *args: findings(*args, inherited=lambda x, small, real: root(x - real)),
        ),
        (
            "the first number compares x, shrunk, with the real one: this stage's faults are in it. Take small.",
            lambda *args: findings(*args, inherited=lambda x, small, real: root(blocks(x - real, small.shape[-1]))),
        ),
        (
            "the first number enlarges small; real details are no fault of its: shrink the real picture.",
            lambda *args: findings(*args, inherited=lambda x, small, real: root(spread(small, x.shape[-1]) - real)),
        ),
        (
            "the third number compares whole pictures, whose coarse parts decide: take the block means away first.",
            lambda *args: findings(*args, detail=lambda x, small, real: root(x) / root(real)),
        ),
        (
            "the third number compares whole pictures, whose coarse parts decide: take the block means away first.",
            lambda *args: findings(*args, detail=lambda x, small, real: x.std() / real.std()),
        ),
        (
            "the third number takes small away from both; each picture's own block means are asked, or faults count as "
            "details.",
            lambda *args: findings(
                *args,
                detail=lambda x, small, real: (
                    root(x - spread(small, x.shape[-1])) / root(real - spread(small, x.shape[-1]))
                ),
            ),
        ),
        (
            "the third number is real over made; made over real is asked.",
            lambda *args: findings(*args, detail=lambda x, small, real: root(fine(real, small)) / root(fine(x, small))),
        ),
        (
            "the third number is a ratio of squares, of powers: roots are asked, as in the other two.",
            lambda *args: findings(
                *args, detail=lambda x, small, real: (root(fine(x, small)) / root(fine(real, small))) ** 2
            ),
        ),
        (
            "these are mean absolute values; roots of mean squares are asked.",
            lambda *args: findings(*args, size=lambda d: d.abs().mean()),
        ),
        (
            "one pixel of each block is taken for it; the mean of its pixels is asked.",
            lambda *args: findings(*args, shrink=every_pixel),
        ),
        (
            "each picture has numbers of its own, and their mean is given; one mean square over all is asked.",
            one_by_one,
        ),
        ("the first two numbers are exchanged.", lambda *args: findings(*args)[[1, 0, 2]]),
    ),
    hints=(
        "A stage can be blamed only for what it did with its input. Which two pictures tell that of the stage before?",
        "Handed on: small against the real picture, shrunk. Added: x, shrunk, against small. Details: what block means "
        "leave of x, over the same of the real picture.",
        "coarse = F.adaptive_avg_pool2d(real, small.shape[-1]); details are real - F.interpolate(coarse, "
        "size=real.shape[-2:]); for each of the three, .square().mean().sqrt().",
    ),
)
