"""The exercises on models that samplers call: a broken guidance, guidance in some steps only, two prompts at once."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.generator.guidance import apply_guidance


# ------------------------------------------------------------------ find the bug
def broken_case(g: torch.Generator, i: int) -> tuple:
    """(model, xt, t, context, mask, scale): a network of one line that reads the mean of the tokens it is shown."""
    project = torch.randn(8, 3, generator=g)

    def model(xt, t, context, context_mask):
        shown = context_mask[..., None]
        text = (context * shown).sum(1) / shown.sum(1)  # (B, 8); nan where nothing is shown
        return xt / 2 + (text @ project + t[:, None] / 1000)[..., None, None]

    xt, context = torch.randn(3, 3, 4, 4, generator=g), torch.randn(3, 6, 8, generator=g)
    mask = torch.arange(6)[None] < torch.tensor([6, 3 + i % 2, 4])[:, None]
    return model, xt, torch.full((3,), 100 * (i + 1)), context, mask, (3.0, 0.0, 1.0, 2.0, 7.5)[i]


def mended(model, xt, t, context, mask, scale, order=(0, 1), hidden=None, combine=apply_guidance):
    """One guided answer, with everything that can be mistaken as an argument."""
    if hidden is None:
        hidden = torch.zeros_like(mask)
        hidden[:, 0] = True
    masks = (hidden, mask)
    answers = model(*(torch.cat([x, x]) for x in (xt, t, context)), torch.cat([masks[k] for k in order])).chunk(2)
    return combine(*answers, scale)


BROKEN = Exercise(
    reference=mended,
    cases=broken_case,
    mistakes=(
        (
            "this still does what the suspect does: scale 0 follows the prompt and scale 1 ignores it. In which order "
            "do the two halves of the batch go in, and in which are they taken out?",
            lambda *args: mended(*args, order=(1, 0)),
        ),
        (
            "the two answers come in the right order now, but the formula changed: at scale 0 it must give uncond.",
            lambda *args: mended(*args, combine=lambda u, c, s: c + s * (c - u)),
        ),
        (
            "right up to the sign of the step: the direction goes from uncond to cond, so it is cond - uncond.",
            lambda *args: mended(*args, combine=lambda u, c, s: u + s * (u - c)),
        ),
        (
            "the start mark is hidden too: then nothing is left to attend to, and the answer is nan. Keep column 0.",
            lambda *args: mended(*args, hidden=torch.zeros_like(args[4])),
        ),
        (
            "the scale has no effect: this is the answer with text alone. Does one half of the batch go without words?",
            lambda *args: mended(*args, order=(1, 1)),
        ),
        (
            "neither half of the batch sees the words: this is the answer without text at every scale.",
            lambda *args: mended(*args, order=(0, 0)),
        ),
        (
            "the half without text shows padding: hide all but column 0, also behind short texts.",
            lambda *args: mended(*args, hidden=~args[4] | (torch.arange(args[4].shape[1]) == 0)),
        ),
    ),
    hints=(
        "Which scale draws the prompt in the picture, and which draws anything? Put both scales into the formula.",
        "The formula is right. So the two names are not: which rows of the batch had words, the first B or the last B?",
        "chunk(2) hands out the first half first. Either exchange the two masks, or the two names.",
    ),
)


# ------------------------------------------------------------------ guidance in some steps
def interval_case(g: torch.Generator, i: int) -> tuple:
    """(plain, guided, xt, t, low, high): t below, at the lower end, inside, at the upper end, above."""
    a, b = torch.randn(2, generator=g).tolist()
    step = (150, 300, 450, 700, 900)[i]
    xt = torch.randn(2, 3, 4, 4, generator=g)
    return lambda xt, t: a * xt, lambda xt, t: b * xt + 1, xt, torch.full((2,), step), 300, 700


def interval(plain, guided, xt, t, low, high):
    """The guided answer where low <= t <= high, the plain one elsewhere."""
    return (guided if low <= int(t[0]) <= high else plain)(xt, t)


def _thrifty(answer, args) -> str | None:
    """Does it call one model a step? A guided call costs two passes, so to call both is to pay three."""
    plain, guided, xt, t, low, high = args
    calls = []

    def counted(model, name):
        return lambda *inputs: calls.append(name) or model(*inputs)

    answer(counted(plain, "plain"), counted(guided, "guided"), xt, t, low, high)
    if len(calls) > 1:
        return (
            "the numbers are right, but both models run at every step: choose first, then call one. A guided answer "
            "costs two passes of the network, a plain one costs one."
        )
    return None


INTERVAL = Exercise(
    reference=interval,
    cases=interval_case,
    examine=_thrifty,
    mistakes=(
        (
            "inside and outside are exchanged: guidance belongs where low <= t <= high.",
            lambda p, q, xt, t, low, high: interval(q, p, xt, t, low, high),
        ),
        (
            "the ends of the interval belong to it: low <= t <= high.",
            lambda p, q, xt, t, low, high: interval(p, q, xt, t, low + 1, high - 1),
        ),
        (
            "only the upper end is tested: below low the plain answer is asked.",
            lambda p, q, xt, t, low, high: interval(p, q, xt, t, -1, high),
        ),
        (
            "only the lower end is tested: above high the plain answer is asked.",
            lambda p, q, xt, t, low, high: interval(p, q, xt, t, low, 9999),
        ),
        (
            "this guides at every step: outside the interval the plain answer is asked.",
            lambda p, q, xt, t, *_: q(xt, t),
        ),
        ("this never guides: inside the interval the guided answer is asked.", lambda p, q, xt, t, *_: p(xt, t)),
        (
            "outside the interval this answers with 0: there the plain model is asked, which still reads the prompt.",
            lambda p, q, xt, t, low, high: interval(lambda x, t: 0 * x, q, xt, t, low, high),
        ),
    ),
    hints=(
        "One number decides: all pictures of a batch stand at the same step, so t[0] is enough.",
        "Python chains comparisons: low <= step <= high is one condition. Choose the model first, then call it.",
        "A conditional expression may choose between functions: (one if condition else other)(xt, t).",
    ),
)


# ------------------------------------------------------------------ two prompts, one picture
def halves_case(g: torch.Generator, i: int) -> tuple:
    """(left, right, xt, t): models that see the whole picture, and pictures of several widths."""
    a, b = torch.randn(2, generator=g).tolist()
    xt = torch.randn(2, 3, 8, (8, 32, 12, 20, 6)[i], generator=g)

    def model(factor):
        return lambda xt, t: factor * xt + xt.mean((2, 3), keepdim=True) + t.view(-1, 1, 1, 1) / 1000

    return model(a), model(b), xt, torch.full((2,), 100 * i)


def halves(left, right, xt, t, dim=-1, middle=None):
    """The left half of one answer beside the right half of the other."""
    a, b = left(xt, t), right(xt, t)
    middle = xt.shape[dim] // 2 if middle is None else middle
    return torch.cat([a.narrow(dim, 0, middle), b.narrow(dim, middle, xt.shape[dim] - middle)], dim)


def _halved_input(left, right, xt, t):
    middle = xt.shape[-1] // 2
    return torch.cat([left(xt[..., :middle], t), right(xt[..., middle:], t)], dim=-1)


HALVES = Exercise(
    reference=halves,
    cases=halves_case,
    mistakes=(
        ("the sides are exchanged: columns from 0 on are the left.", lambda a, b, xt, t: halves(b, a, xt, t)),
        (
            "this cuts into top and bottom: the width is the last axis, x[..., :middle].",
            lambda a, b, xt, t: halves(a, b, xt, t, dim=-2),
        ),
        (
            "each model sees only half of xt: hand both the whole picture and cut their answers, so that each half is "
            "drawn in the sight of the other.",
            _halved_input,
        ),
        (
            "both halves are the left model's: the right half comes from the second model.",
            lambda a, b, xt, t: a(xt, t),
        ),
        ("both halves are the right model's.", lambda a, b, xt, t: b(xt, t)),
        (
            "this is the mean of both answers, a blend everywhere: cut and put side by side.",
            lambda a, b, xt, t: (a(xt, t) + b(xt, t)) / 2,
        ),
        (
            "the middle is at half the width, whatever the width is: xt.shape[-1] // 2, not 16.",
            lambda a, b, xt, t: halves(a, b, xt, t, middle=min(16, xt.shape[-1])),
        ),
    ),
    hints=(
        "Both models answer for the whole picture. Then cut, and join two halves.",
        "x[..., :middle] is the left half of the columns; middle is half the width.",
        "torch.cat joins along a dimension; the columns are dimension -1.",
    ),
)
