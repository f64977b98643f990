"""The exercises of notebook 04: text that steers every step."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb04_attention import CROSS_ATTENTION, WORD_MAP


# ------------------------------------------------------------------ joining a pair
def merge_case(g: torch.Generator, i: int) -> tuple:
    """(ids, pair, new_id): few different tokens, so that pairs are many; every second pair is of two equal tokens."""
    ids = torch.randint(4, (14 + 3 * i,), generator=g)
    first, second = (2, 2) if i % 2 else (1, 3)
    ids[2:9] = torch.tensor([0, first, first, first, second, second, 0])  # a run of odd length, or the pair within it
    ids[9:12] = torch.tensor([second, first, 0])  # and the pair the other way round
    return ids, (first, second), 9


def merge(ids, pair, new_id):
    """Replace every pair, from left to right, by the new token."""
    old, out = ids.tolist(), []
    while old:
        joined = tuple(old[:2]) == tuple(pair)
        out.append(new_id if joined else old[0])
        old = old[2:] if joined else old[1:]
    return torch.tensor(out)


def _overlapping(ids, pair, new_id):
    old = ids.tolist()
    starts = [i for i in range(len(old) - 1) if (old[i], old[i + 1]) == tuple(pair)]
    return torch.tensor([new_id if i in starts else x for i, x in enumerate(old) if i in starts or i - 1 not in starts])


def _first_only(ids, pair, new_id):
    at = next(i for i in range(len(ids) - 1) if (int(ids[i]), int(ids[i + 1])) == tuple(pair))
    return torch.cat([ids[:at], torch.tensor([new_id]), ids[at + 2 :]])


def _keeps_second(ids, pair, new_id):
    hits = (ids[:-1] == pair[0]) & (ids[1:] == pair[1])
    return torch.cat([torch.where(hits, new_id, ids[:-1]), ids[-1:]])


MERGE = Exercise(
    reference=merge,
    cases=merge_case,
    mistakes=(
        (
            "pairs overlap: in a run of three equal tokens the first two are joined and the third stays. After one, go "
            "on two places further.",
            _overlapping,
        ),
        ("only the first pair is replaced: go on to the end.", _first_only),
        ("the second token of the pair is still there: one new token takes the place of two.", _keeps_second),
        (
            "a pair has an order: (a, b) is joined, (b, a) is not.",
            lambda ids, pair, new: merge(merge(ids, pair, new), pair[::-1], new),
        ),
        (
            "the pair is read backwards: it is (a, b) that is joined, not (b, a).",
            lambda ids, pair, new: merge(ids, pair[::-1], new),
        ),
        (
            "the pairs are joined from the right: start at the left, as every tokenizer does: runs differ otherwise.",
            lambda ids, pair, new: merge(ids.flip(0), pair[::-1], new).flip(0),
        ),
    ),
    hints=(
        "Walk along the tokens with an index i; look at i and i + 1.",
        "If both match, keep new_id and move two on; if not, keep ids[i] and move one on. Mind the last token.",
        "while i < len(ids): hit = tuple(ids[i:i + 2].tolist()) == tuple(pair); out.append(new_id if hit else "
        "int(ids[i])); i += 2 if hit else 1. Return torch.tensor(out).",
    ),
)


# ------------------------------------------------------------------ one vector for a text
def pooled_case(g: torch.Generator, i: int) -> tuple:
    """(ids, context, end_id): texts of different length; every second batch is filled with end marks, as CLIP does."""
    length, batch = 6 + i, 4
    ids = torch.randint(3, 50, (batch, length), generator=g)
    ids[:, 0] = 0
    for row, end in enumerate((1, 2, length // 2, length - 1)):
        ids[row, end], ids[row, end + 1 :] = 1, 1 if i % 2 else 2
    return ids, torch.randn(batch, length, 8, generator=g), 1


def pooled(ids, context, end_id, shift=0):
    """The vector at the first end mark."""
    return context[torch.arange(len(ids)), (ids == end_id).int().argmax(1) + shift]


POOLED = Exercise(
    reference=pooled,
    cases=pooled_case,
    mistakes=(
        ("this reads the last place, which in a short text is padding.", lambda ids, c, end: c[:, -1]),
        (
            "this reads the first place: the start mark has seen no word, because attention looks back only.",
            lambda ids, c, end: c[:, 0],
        ),
        (
            "this is the mean over all places, padding too; the vector at the end mark is asked.",
            lambda ids, c, end: c.mean(1),
        ),
        ("this reads the last word, one place before the end mark.", lambda ids, c, end: pooled(ids, c, end, -1)),
        (
            "argmax of the numbers finds the end mark only where it is the largest number, as in OpenAI's vocabulary.",
            lambda ids, c, end: c[torch.arange(len(ids)), ids.argmax(1)],
        ),
        (
            "this reads the last of several end marks; CLIP fills short texts up with them, so the first one counts.",
            lambda ids, c, end: c[torch.arange(len(ids)), ids.shape[1] - 1 - (ids == end).int().flip(1).argmax(1)],
        ),
    ),
    hints=(
        "Find the place of the end mark in each row, then take the vector at that place.",
        "(ids == end_id).int().argmax(dim=1) is the first place that holds it.",
        "context[torch.arange(len(ids)), place] takes another place from every row.",
    ),
)


# ------------------------------------------------------------------ dropping captions, and guidance
def hide_case(g: torch.Generator, i: int) -> tuple:
    """(context_mask, dropped): texts of different length, some of them to be hidden."""
    lengths = torch.randint(3, 8, (5,), generator=g)
    dropped = torch.rand(5, generator=g) < 0.5
    dropped[0], dropped[1] = True, False
    return torch.arange(8)[None] < lengths[:, None], dropped


def hide(context_mask, dropped):
    """Only the start mark of a dropped text stays visible."""
    first = torch.zeros_like(context_mask)
    first[:, 0] = True
    return torch.where(dropped[:, None], first, context_mask)


HIDE = Exercise(
    reference=hide,
    cases=hide_case,
    mistakes=(
        (
            "the start mark is hidden too: then nothing is left to look at, and softmax gives nan. Keep column 0.",
            lambda mask, d: mask & ~d[:, None],
        ),
        ("the wrong texts are hidden: True in dropped means that this text goes.", lambda mask, d: hide(mask, ~d)),
        (
            "all texts are hidden: only rows with True in dropped lose their words.",
            lambda mask, d: hide(mask, torch.ones_like(d)),
        ),
        (
            "this shows padding of the texts that stay: start from context_mask, not from ones.",
            lambda mask, d: hide(torch.ones_like(mask), d),
        ),
    ),
    hints=(
        "Two kinds of rows: those that stay as they are, and those where only column 0 is True.",
        "Make a mask that is True in column 0 alone, then choose between the two row by row.",
        "first = torch.zeros_like(context_mask); first[:, 0] = True; "
        "torch.where(dropped[:, None], first, context_mask).",
    ),
)


def guidance_case(g: torch.Generator, i: int) -> tuple:
    """(uncond, cond, scale)."""
    shape = (2, 3, 4, 4)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g), (3.0, 7.5, 1.0, 0.0, 5.0)[i]


GUIDANCE = Exercise(
    reference=lambda u, c, s: u + s * (c - u),
    cases=guidance_case,
    mistakes=(
        (
            "the paper's scale counts from 0: here, as in Stable Diffusion, 1 is off. Start from uncond.",
            lambda u, c, s: c + s * (c - u),
        ),
        (
            "the two answers are exchanged: a scale above 1 now moves away from the text.",
            lambda u, c, s: c + s * (u - c),
        ),
        (
            "right up to the sign of the step: the direction goes from uncond to cond, so it is cond - uncond.",
            lambda u, c, s: u + s * (u - c),
        ),
        ("this is the direction alone: add it to the answer without text.", lambda u, c, s: s * (c - u)),
        (
            "at scale 1 the answer with text should come out unchanged: subtract uncond before you multiply.",
            lambda u, c, s: u + s * c,
        ),
    ),
    hints=(
        "Start at the answer without text and walk towards the one with it; at scale 1 you arrive.",
        "The direction is cond - uncond; the scale says how far to go.",
        "uncond + scale * (cond - uncond).",
    ),
)


EXERCISES = {
    "04-merge": MERGE,
    "04-text-vector": POOLED,
    "04-cross-attention": CROSS_ATTENTION,
    "04-hide": HIDE,
    "04-guidance": GUIDANCE,
    "04-word-map": WORD_MAP,
}
