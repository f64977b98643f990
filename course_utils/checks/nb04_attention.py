"""The exercises on attention between pixels and words."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise


def attention_case(g: torch.Generator, i: int) -> tuple:
    """(q (B, N, D), k (B, L, D), v (B, L, D), mask (B, L)): a batch whose texts have different lengths."""
    q, k, v = (torch.randn(3, n, 4 + 4 * i, generator=g) for n in (9, 6, 6))
    lengths = torch.tensor([6, 1 + i % 3, 4])
    return 2 * q, k, v, torch.arange(6)[None] < lengths[:, None]


def attention(q, k, v, mask, scale=None, dim=-1, hidden=float("-inf")):
    """softmax(q k^T / sqrt(d)) v with everything that can be mistaken as an argument."""
    logits = q @ k.transpose(1, 2) / (q.shape[-1] ** 0.5 if scale is None else scale)  # (B, N, L)
    return logits.masked_fill(~mask[:, None], hidden).softmax(dim) @ v


def _masked_late(q, k, v, mask):
    return (
        attention(q, k, v, torch.ones_like(mask))
        - ((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) * ~mask[:, None]) @ v
    )


CROSS_ATTENTION = Exercise(
    reference=attention,
    cases=attention_case,
    mistakes=(
        (
            "the mask is ignored: padding is read as if it were words.",
            lambda q, k, v, mask: attention(q, k, v, torch.ones_like(mask)),
        ),
        (
            "the products are not divided by sqrt(d): large numbers make softmax choose a single word.",
            lambda q, k, v, mask: attention(q, k, v, mask, scale=1.0),
        ),
        (
            "the products are divided by d; its square root is asked.",
            lambda q, k, v, mask: attention(q, k, v, mask, scale=q.shape[-1]),
        ),
        (
            "a hidden word has logit 0, which softmax turns into a weight above 0: use -inf.",
            lambda q, k, v, mask: attention(q, k, v, mask, hidden=0.0),
        ),
        ("the mask comes too late: put -inf before softmax, so that the weights that stay add up to 1.", _masked_late),
        (
            "softmax runs over the pixels: each pixel shares itself out over the words, so it runs over the last axis.",
            lambda q, k, v, mask: attention(q, k, v, mask, dim=1, hidden=-1e9),
        ),
    ),
    hints=(
        "Compare every pixel with every word, turn each pixel's row into shares, mix the values by these shares.",
        "q @ k.transpose(1, 2) is (B, N, L); hidden words get -inf in it, through mask[:, None]; then softmax(-1).",
        "logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5; logits = logits.masked_fill(~mask[:, None], "
        'float("-inf")); return logits.softmax(-1) @ v.',
    ),
)


def map_case(g: torch.Generator, i: int) -> tuple:
    """(weights (heads, N, L), places, side): shares of attention, and a word of two or three tokens."""
    side, length = 3 + i, 7
    weights = torch.randn(2 + i % 3, side * side, length, generator=g).softmax(-1)
    return weights, [2, 3] if i % 2 else [1, 2, 5], side


def word_map(weights, places, side):
    """Mean over heads, sum over the word's tokens, as a square."""
    return weights.mean(0)[:, places].sum(1).view(side, side)


WORD_MAP = Exercise(
    reference=word_map,
    cases=map_case,
    tolerance=1e-5,
    mistakes=(
        (
            "the heads are added; take their mean, so that a pixel's shares still add up to 1.",
            lambda w, places, side: word_map(w, places, side) * len(w),
        ),
        (
            "the tokens of the word are averaged; their shares add up.",
            lambda w, places, side: word_map(w, places, side) / len(places),
        ),
        (
            "only the first token of the word counts here: add all its places.",
            lambda w, places, side: word_map(w, places[:1], side),
        ),
        (
            "rows and columns have changed places: the N places run along the rows, as view(side, side) reads them.",
            lambda w, places, side: word_map(w, places, side).T,
        ),
        (
            "only the first head is read: take the mean over dimension 0.",
            lambda w, places, side: word_map(w[:1], places, side),
        ),
        (
            "the map is stretched to 1; here the shares themselves are asked.",
            lambda w, places, side: word_map(w, places, side) / word_map(w, places, side).max(),
        ),
    ),
    hints=(
        "Three steps: mean over heads, add the word's tokens, bend the row of N places into a square.",
        "weights.mean(dim=0) is (N, L); [:, places] picks the columns of the word.",
        "weights.mean(dim=0)[:, places].sum(dim=1).view(side, side).",
    ),
)
