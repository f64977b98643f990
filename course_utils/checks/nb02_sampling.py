"""The exercises on a sampler with a bug in it, and on whether its drawings are copies."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb02_model import TinyModel, alpha_bar_table


def loop(model, xT, alpha_bar, steps, told=lambda table, i: table[i], last=1.0, clip=True):
    """Go from noise to picture along the predicted noise; `told` is the step that the network is told."""
    table, xt = torch.linspace(len(alpha_bar) - 1, 0, steps).long().tolist(), xT
    for i, t in enumerate(table):
        a = alpha_bar[t]
        a_next = alpha_bar[table[i + 1]] if i + 1 < steps else torch.full_like(a, last)
        eps = model(xt, torch.full((len(xt),), told(table, i)))
        x0 = (xt - (1 - a).sqrt() * eps) / a.sqrt()
        xt = a_next.sqrt() * (x0.clamp(-1, 1) if clip else x0) + (1 - a_next).sqrt() * eps
    return xt


def loop_case(g: torch.Generator, i: int) -> tuple:
    """(model, xT, alpha_bar, steps)."""
    return TinyModel(g), torch.randn(2, 3, 8, 8, generator=g), alpha_bar_table(g, 40), 4 + i


def _loop(**options):
    return lambda *args: loop(*args, **options)


BROKEN_LOOP = Exercise(
    reference=loop,
    cases=loop_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the bug is still there: print the step that the network is told beside the step that xt stands at.",
            _loop(told=lambda table, i: i),
        ),
        (
            "the counter runs the other way now, but it is still a counter: the network knows training steps, "
            "0 to T - 1.",
            _loop(told=lambda table, i: len(table) - 1 - i),
        ),
        (
            "the network is told the step it goes to; it has to know the one at which xt stands.",
            _loop(told=lambda table, i: table[min(i + 1, len(table) - 1)]),
        ),
        ("the network is told the first step throughout.", _loop(told=lambda table, i: table[0])),
        ("the network is told step 0 throughout: that xt is clean.", _loop(told=lambda table, i: 0)),
        ("the line with clamp was right: the guess of the picture stays in [-1, 1].", _loop(clip=False)),
        (
            "the end was right: after the last step nothing is noised, and alpha_bar is 1.",
            lambda model, xT, alpha_bar, steps: loop(model, xT, alpha_bar, steps, last=float(alpha_bar[0])),
        ),
    ),
    hints=(
        "The loop holds one wrong word. Its picture is soup, so the network's answers are wrong from the start.",
        "Print, in every round: the step at which xt stands, the step the network is told, the spread of its answer.",
        "Look at the second argument of `model`. In which unit does the network count?",
    ),
)


def nearest(x, references, p=2.0):
    """The distance of each of x to its nearest reference, (N,)."""
    return torch.cdist(x.flatten(1), references.flatten(1), p=p).amin(1)


def with_mirrored(known):
    return torch.cat([known, known.flip(-1)])


def copy_score(drawings, known, held_out):
    """The distance to the nearest known picture, in units of a typical held-out picture's, (N,)."""
    every = with_mirrored(known)
    return nearest(drawings, every) / nearest(held_out, every).median()


def copies_case(g: torch.Generator, i: int) -> tuple:
    """(drawings, known, held_out): a copy, a mirrored one, a near one and three new ones."""
    known = torch.randn(8, 3, 6, 6, generator=g)
    near = torch.stack([known[0], known[1].flip(-1), known[2].flip(-1)])
    near = near + torch.tensor([0.0, 0.2, 0.5]).view(3, 1, 1, 1) * torch.randn(near.shape, generator=g)
    held_out = 0.7 * known[:7].roll(1, 0).flip(-1) + 0.3 * (i + 1) * torch.randn(7, 3, 6, 6, generator=g)
    return torch.cat([near, torch.randn(3, 3, 6, 6, generator=g)]), known, held_out


def _against(yardstick):
    """A mistaken score: the right distances, divided by yardstick(those of the held-out pictures)."""
    return lambda d, k, h: nearest(d, with_mirrored(k)) / yardstick(nearest(h, with_mirrored(k)))


COPIES = Exercise(
    reference=copy_score,
    cases=copies_case,
    tolerance=1e-3,
    mistakes=(
        (
            "training mirrors half of its pictures: a mirrored copy is a copy too.",
            lambda d, k, h: nearest(d, k) / nearest(h, k).median(),
        ),
        (
            "the drawings may be mirrored copies, but the held-out pictures are not compared with mirrored ones: "
            "one rule for both.",
            lambda d, k, h: nearest(d, with_mirrored(k)) / nearest(h, k).median(),
        ),
        (
            "these pictures are turned upside down; training mirrors left and right, the last axis.",
            lambda d, k, h: (lambda every: nearest(d, every) / nearest(h, every).median())(torch.cat([k, k.flip(-2)])),
        ),
        ("these are the distances themselves: divide by the held-out pictures' median.", _against(lambda d: 1.0)),
        ("the yardstick is the median of the held-out pictures' distances, not their mean.", _against(torch.mean)),
        ("the yardstick is the median of the held-out pictures' distances, not the smallest.", _against(torch.min)),
        (
            "this is the mean distance to all known pictures; a copy is near one of them.",
            lambda d, k, h: (
                torch.cdist(d.flatten(1), with_mirrored(k).flatten(1)).mean(1)
                / torch.cdist(h.flatten(1), with_mirrored(k).flatten(1)).mean(1).median()
            ),
        ),
        ("the distances are squared: take the root of the sum of squares.", lambda d, k, h: copy_score(d, k, h) ** 2),
        (
            "these are sums of absolute differences; the root of the sum of squares is asked.",
            lambda d, k, h: nearest(d, with_mirrored(k), 1.0) / nearest(h, with_mirrored(k), 1.0).median(),
        ),
    ),
    hints=(
        "A small distance alone proves nothing: white paper is near white paper. How near do real new pictures come?",
        "torch.cdist of flattened pictures gives all distances at once; the known ones need their mirrored twins.",
        "One function that finds the smallest distance, called twice: for the drawings, and for the held-out pictures.",
    ),
)
