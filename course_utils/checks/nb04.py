"""The exercises of notebook 04: text that steers every step."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb04_attention import CROSS_ATTENTION
from course_utils.checks.nb04_guidance import BROKEN, HALVES, INTERVAL


# ------------------------------------------------------------------ joining a pair
def merge_case(g: torch.Generator, i: int) -> tuple:
    """(ids, pair, new_id): few different tokens, so that pairs are many; every second pair is of two equal tokens."""
    ids = torch.randint(4, (14 + 3 * i,), generator=g)
    first, second = (2, 2) if i % 2 else (1, 3)
    ids[2:9] = torch.tensor([0, first, first, first, second, second, 0])  # a run of odd length, or the pair within it
    ids[9:12] = torch.tensor([second, first, 0])  # and the pair the other way round
    ids[-1] = 0  # the last token belongs to no pair
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
        (
            "the last token is lost: where no pair begins, the token itself is kept, the last one too.",
            lambda ids, pair, new: merge(ids, pair, new)[:-1],
        ),
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
        "A while loop with i, not a for loop: the step is 2 or 1. ids[i:i + 2] is short at the end, and then equals no "
        "pair, so that the last token needs no case of its own.",
    ),
)


EXERCISES = {
    "04-cross-attention": CROSS_ATTENTION,
    "04-merge": MERGE,
    "04-broken-guidance": BROKEN,
    "04-guidance-interval": INTERVAL,
    "04-two-prompts": HALVES,
}
