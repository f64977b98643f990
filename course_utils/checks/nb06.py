"""The exercises of notebook 06: img2img from its parts, where attention falls, and two conditions with two scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb06_conditions import GRAIN, NINE
from course_utils.generator.schedules import make_schedule


# ------------------------------------------------------------------ how many steps a strength takes
def last_steps_case(g: torch.Generator, i: int) -> tuple:
    """(table, strength): a table from noise down to the picture; strengths whose product with S is not whole, or 0."""
    steps = (20, 25, 10, 50, 30)[i]
    table = (torch.arange(steps, 0, -1) * (1000 // steps)) - 1
    return table, (0.77, 0.0, 0.99, 0.03, 1.0)[i]


def last_steps(table, strength, count=int):
    """The last int(strength * S) entries."""
    return table[len(table) - count(strength * len(table)) :]


STRENGTH = Exercise(
    reference=last_steps,
    cases=last_steps_case,
    mistakes=(
        (
            "table[-n:] is the whole table where n is 0: at strength 0 no step is taken. Count from the front.",
            lambda table, strength: table[-int(strength * len(table)) :],
        ),
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
            "the number of steps is rounded, and table[-n:] is the whole table where n is 0; int cuts the number off.",
            lambda table, strength: table[-round(strength * len(table)) :],
        ),
        (
            "the table is reversed: go on from noise down to the picture.",
            lambda table, strength: last_steps(table, strength).flip(0),
        ),
        ("these are all the steps, whatever the strength.", lambda table, strength: table),
        (
            "at strength 0 one step is taken: none is asked.",
            lambda table, strength: last_steps(table, strength, lambda x: max(1, int(x))),
        ),
        (
            "one step is missing: int(strength * S) of them are taken.",
            lambda table, strength: last_steps(table, strength, lambda x: max(0, int(x) - 1)),
        ),
    ),
    hints=(
        "The table goes from noise down to the picture. A weak change begins near its end.",
        "With S = len(table), int(strength * S) steps are taken: the last ones. What does table[-0:] give?",
        "Leave out the first S - int(strength * S) entries.",
    ),
)


# ------------------------------------------------------------------ img2img from its parts
ALPHA_BAR = make_schedule("cosine").alpha_bar


def toy_denoise(zt, table):
    """Stand in for sampling along a table: what comes back depends on the latent and on every step that is taken."""
    for t in table.tolist():
        zt = 0.9 * zt + 0.1 * torch.tanh(zt + t / 500)
    return zt


def redraw_case(g: torch.Generator, i: int) -> tuple:
    """(z, eps, table, strength, alpha_bar, denoise): latents of variance 1, and at one strength no step."""
    table, strength = last_steps_case(g, i)
    z, eps = torch.randn(2, 2, 4, 6, 6, generator=g)
    return z, eps, table, (0.57, 0.0, 0.99, 0.33, 0.78)[i], ALPHA_BAR.clone(), toy_denoise


def redraw(z, eps, table, strength, alpha_bar, denoise, count=int, first=lambda rest, table: rest[0], along=None):
    """SDEdit: noise to the first step that is taken, then sample along the steps that are left."""
    rest = last_steps(table, strength, count)
    if not len(rest):
        return z
    a = alpha_bar[first(rest, table)]
    return denoise(a.sqrt() * z + (1 - a).sqrt() * eps, rest if along is None else along(rest, table))


def _noised(mix):
    """`redraw` with another way of adding the noise: mix(z, eps, a)."""

    def answer(z, eps, table, strength, alpha_bar, denoise):
        rest = last_steps(table, strength)
        return denoise(mix(z, eps, alpha_bar[rest[0]]), rest) if len(rest) else z

    return answer


IMG2IMG = Exercise(
    reference=lambda *args: redraw(*args),
    cases=redraw_case,
    mistakes=(
        (
            "the latent is noised to the first step of the whole table; noise it to the first step that is taken.",
            lambda *args: redraw(*args, first=lambda rest, table: table[0]),
        ),
        (
            "denoise runs along the whole table: give it only the steps that are left.",
            lambda *args: redraw(*args, along=lambda rest, table: table),
        ),
        (
            "the whole table is used, to noise and to sample: the strength does nothing.",
            lambda z, eps, table, strength, *more: redraw(z, eps, table, 1.0, *more),
        ),
        (
            "the roots are missing: the closed form has sqrt(alpha_bar) and sqrt(1 - alpha_bar).",
            _noised(lambda z, eps, a: a * z + (1 - a) * eps),
        ),
        (
            "the two coefficients are exchanged: the latent gets sqrt(alpha_bar).",
            _noised(lambda z, eps, a: (1 - a).sqrt() * z + a.sqrt() * eps),
        ),
        (
            "the noise is added to the whole latent: shrink the latent by sqrt(alpha_bar) first.",
            _noised(lambda z, eps, a: z + (1 - a).sqrt() * eps),
        ),
        ("the latent is not noised: the network never saw a clean one at such a step.", _noised(lambda z, eps, a: z)),
        ("this starts from pure noise: the picture is forgotten.", _noised(lambda z, eps, a: eps)),
        (
            "the strength is turned round: 1 forgets the picture and takes all steps.",
            lambda z, eps, table, strength, *more: redraw(z, eps, table, 1 - strength, *more),
        ),
        (
            "the number of steps is rounded; as in diffusers, int cuts it off.",
            lambda *args: redraw(*args, count=round),
        ),
        (
            "the latent is noised to the last step that is taken; begin with the noisiest.",
            lambda *args: redraw(*args, first=lambda rest, table: rest[-1]),
        ),
    ),
    hints=(
        "Three parts: which steps are left, how noisy is the first of them, sample along them.",
        "rest = the last int(strength * S) steps; a = alpha_bar[rest[0]]; the closed form of notebook 01 makes zt.",
        "If no step is left, z comes back; else denoise(zt, rest), with zt noised by a, roots included.",
    ),
)


# ------------------------------------------------------------------ where attention falls
def enrichment_case(g: torch.Generator, i: int) -> tuple:
    """(maps, mask): attention of any sum, and a subject of the picture's size whose border cuts through places."""
    maps = torch.rand(2, 8, 8, generator=g) ** 2 * (1 + i)
    mask = torch.zeros(2, 1, 64, 64)
    for one in mask:
        top, left, height, width = (int(torch.randint(5, 30, (), generator=g)) for _ in range(4))
        one[:, top : top + height, left : left + width] = 1
    return maps, mask


def enrichment(maps, mask, shrink="area", inside=lambda cover: cover):
    """Share of the attention on the subject, over its share of the area."""
    cover = inside(F.interpolate(mask, size=maps.shape[-2:], mode=shrink)[:, 0])
    return (maps * cover).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)) / cover.mean(dim=(1, 2))


def _enlarged(maps, mask):
    """The maps brought to the picture's size, in place of the mask to theirs."""
    large = F.interpolate(maps[:, None], size=mask.shape[-2:], mode="bilinear")
    return ((large * mask).sum(dim=(1, 2, 3)) / large.sum(dim=(1, 2, 3))) / mask.mean(dim=(1, 2, 3))


ENRICHMENT = Exercise(
    reference=lambda *args: enrichment(*args),
    cases=enrichment_case,
    mistakes=(
        (
            "this is the share of the attention alone; a large subject gets much anyway: divide by its share of the "
            "area.",
            lambda maps, mask: (
                enrichment(maps, mask) * F.interpolate(mask, size=maps.shape[-2:], mode="area").mean(dim=(1, 2, 3))
            ),
        ),
        (
            "this is the attention on the background, over its area.",
            lambda maps, mask: enrichment(maps, mask, inside=lambda cover: 1 - cover),
        ),
        (
            "the mask is shrunk by its nearest pixels: a place half covered counts half, mode='area'.",
            lambda maps, mask: enrichment(maps, mask, shrink="nearest"),
        ),
        (
            "the maps are enlarged to the picture, which smooths them; shrink the mask to the maps.",
            _enlarged,
        ),
        (
            "the maps are not divided by their sum: a share of the word's own attention is asked.",
            lambda maps, mask: enrichment(maps, mask) * maps.sum(dim=(1, 2)),
        ),
        (
            "the attention is averaged over all maps: each picture has its own share.",
            lambda maps, mask: enrichment(maps, mask).mean().expand(len(maps)),
        ),
        (
            "the share is divided by the subject's number of places, not by its share of the area.",
            lambda maps, mask: enrichment(maps, mask) / maps[0].numel(),
        ),
    ),
    hints=(
        "Two shares, one over the other: of the attention, and of the area.",
        "cover = F.interpolate(mask, size=maps.shape[-2:], mode='area')[:, 0] says how far each place is covered.",
        "The first share is the sum of maps * cover over the sum of maps, the second the mean of cover, picture by "
        "picture.",
    ),
)


# ------------------------------------------------------------------ two conditions, two scales
def two_case(g: torch.Generator, i: int) -> tuple:
    """(none, first, both, first_scale, second_scale)."""
    answers = torch.randn(3, 2, 4, 4, 4, generator=g)
    return *answers, (1.5, 2.0, 1.0, 3.0, 0.0)[i], (3.0, 1.0, 7.5, 2.0, 5.0)[i]


def two(none, first, both, first_scale, second_scale):
    """InstructPix2Pix, equation 3."""
    return none + first_scale * (first - none) + second_scale * (both - first)


TWO = Exercise(
    reference=two,
    cases=two_case,
    mistakes=(
        (
            "the two scales are exchanged: the first arrow, from none to first, belongs to the first.",
            lambda n, p, b, ps, ts: two(n, p, b, ts, ps),
        ),
        (
            "the second arrow starts at none: then the first condition is counted twice. It goes from first to both.",
            lambda n, p, b, ps, ts: n + ps * (p - n) + ts * (b - n),
        ),
        (
            "the second arrow points the wrong way: it goes from first to both.",
            lambda n, p, b, ps, ts: two(n, p, b, ps, -ts),
        ),
        (
            "the first arrow points the wrong way: it goes from none to first.",
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
        "Two arrows in a row: from nothing to the first condition, from there to both. Each has its own scale.",
        "The first arrow is first - none, the second both - first; with both scales 1 you arrive at both.",
        "Start at none, and add each arrow times its scale.",
    ),
)


EXERCISES = {
    "06-strength": STRENGTH,
    "06-img2img": IMG2IMG,
    "06-nine": NINE,
    "06-enrichment": ENRICHMENT,
    "06-grain": GRAIN,
    "06-two": TWO,
}
