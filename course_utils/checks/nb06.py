"""The exercises of notebook 06: three modules together, and conditions that are not text."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb06_conditions import KEEP, NINE, POOL


# ------------------------------------------------------------------ from a latent to a picture
def paint(z):
    """Stand in for a decoder: four maps in, a picture of twice the side out; not linear, so that the scale matters."""
    h = F.interpolate(torch.tanh(0.35 * z), scale_factor=2)  # (B, 4, 2h, 2w)
    return 1.3 * h[:, :3] + 0.4 * h[:, 3:]


def latent_case(g: torch.Generator, i: int) -> tuple:
    """(decode, z, scale): latents of variance 1, as the U-Net paints them."""
    return paint, torch.randn(2, 4, 5 + i, 5, generator=g), (0.354, 0.18215, 0.5, 0.25, 0.7)[i]


def to_picture(decode, z, scale, limit=lambda x: x.clamp(-1, 1)):
    """Back to the decoder's size, then decode, then clip."""
    return limit(decode(z / scale))


PICTURE = Exercise(
    reference=to_picture,
    cases=latent_case,
    mistakes=(
        (
            "the scale is on the wrong side: encoding multiplies by it, so decoding divides.",
            lambda decode, z, scale: to_picture(decode, z, 1 / scale),
        ),
        (
            "the scale is missing: the decoder gets latents that are too small, and the picture is pale.",
            lambda decode, z, scale: to_picture(decode, z, 1.0),
        ),
        (
            "nothing is clipped: a decoder may overshoot, and pictures end at -1 and 1.",
            lambda decode, z, scale: to_picture(decode, z, scale, lambda x: x),
        ),
        (
            "the range is that of a file here; the course's pictures stay in [-1, 1].",
            lambda decode, z, scale: to_picture(decode, z, scale, lambda x: (x.clamp(-1, 1) + 1) / 2),
        ),
        (
            "the picture is scaled, not the latent: divide before you decode.",
            lambda decode, z, scale: (decode(z) / scale).clamp(-1, 1),
        ),
        ("the latent is clipped; clip the picture.", lambda decode, z, scale: decode((z / scale).clamp(-1, 1))),
    ),
    hints=(
        "Training multiplied every latent by the scale, so that its variance is 1. Undo that first.",
        "Three steps: divide, decode, clip to [-1, 1].",
        "decode(z / scale).clamp(-1, 1).",
    ),
)


# ------------------------------------------------------------------ how many steps a strength takes
def last_steps_case(g: torch.Generator, i: int) -> tuple:
    """(table, strength): a table from noise down to the picture, and strengths whose product with S is not whole."""
    steps = (20, 25, 10, 50, 30)[i]
    table = (torch.arange(steps, 0, -1) * (1000 // steps)) - 1
    return table, (0.77, 0.5, 0.99, 0.31, 1.0)[i]


def last_steps(table, strength, count=int):
    """The last int(strength * S) entries."""
    return table[len(table) - count(strength * len(table)) :]


WALK = Exercise(
    reference=last_steps,
    cases=last_steps_case,
    mistakes=(
        (
            "this takes the noisy part of the table; the picture is noised only part of the way: take the last steps.",
            lambda table, strength: table[: int(strength * len(table))],
        ),
        (
            "the strength is turned round: 1 forgets the picture and takes all steps.",
            lambda table, strength: table[int(strength * len(table)) :],
        ),
        (
            "the strength is turned round: 1 - strength of the steps are left out, not taken.",
            lambda table, strength: last_steps(table, 1 - strength),
        ),
        (
            "the number of steps is rounded; as in diffusers, int cuts it off.",
            lambda table, strength: last_steps(table, strength, round),
        ),
        (
            "the table is reversed: go on from noise down to the picture.",
            lambda table, strength: last_steps(table, strength).flip(0),
        ),
        ("these are all the steps, whatever the strength.", lambda table, strength: table),
        (
            "one step is missing: int(strength * S) of them are taken.",
            lambda table, strength: last_steps(table, strength, lambda x: int(x) - 1),
        ),
    ),
    hints=(
        "The table goes from noise down to the picture. A weak change begins near its end.",
        "With S = len(table), int(strength * S) steps are taken: the last ones.",
        "table[len(table) - int(strength * len(table)):]. (table[-n:] goes wrong for n = 0.)",
    ),
)


# ------------------------------------------------------------------ two conditions, two scales
def two_case(g: torch.Generator, i: int) -> tuple:
    """(none, picture, both, picture_scale, text_scale)."""
    answers = torch.randn(3, 2, 4, 4, 4, generator=g)
    return *answers, (1.5, 2.0, 1.0, 3.0, 0.0)[i], (3.0, 1.0, 7.5, 2.0, 5.0)[i]


def two(none, picture, both, picture_scale, text_scale):
    """InstructPix2Pix, equation 3."""
    return none + picture_scale * (picture - none) + text_scale * (both - picture)


TWO = Exercise(
    reference=two,
    cases=two_case,
    mistakes=(
        (
            "the two scales are exchanged: the first arrow, from none to picture, belongs to the picture.",
            lambda n, p, b, ps, ts: two(n, p, b, ts, ps),
        ),
        (
            "the second arrow starts at none: then the picture is counted twice. It goes from picture to both.",
            lambda n, p, b, ps, ts: n + ps * (p - n) + ts * (b - n),
        ),
        (
            "the second arrow points the wrong way: it goes from picture to both.",
            lambda n, p, b, ps, ts: two(n, p, b, ps, -ts),
        ),
        (
            "the first arrow points the wrong way: it goes from none to picture.",
            lambda n, p, b, ps, ts: two(n, p, b, -ps, ts),
        ),
        (
            "the start is missing: add the answer without any condition.",
            lambda n, p, b, ps, ts: two(n, p, b, ps, ts) - n,
        ),
        (
            "this starts at the answer with both; with both scales 1 you would go past it.",
            lambda n, p, b, ps, ts: two(n, p, b, ps, ts) - n + b,
        ),
    ),
    hints=(
        "Two arrows in a row: from nothing to the picture, from there to picture and text. Each has its own scale.",
        "The first arrow is picture - none, the second both - picture; with both scales 1 you arrive at both.",
        "none + picture_scale * (picture - none) + text_scale * (both - picture).",
    ),
)


EXERCISES = {
    "06-picture": PICTURE,
    "06-strength": WALK,
    "06-keep": KEEP,
    "06-nine": NINE,
    "06-pool": POOL,
    "06-two": TWO,
}
