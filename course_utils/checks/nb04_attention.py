"""The exercise on attention between pixels and words."""

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
        *(
            (
                "softmax runs over the pixels (with -inf a hidden word's column is then nan): each pixel shares its "
                "attention out over the words, so softmax runs over the last axis.",
                lambda q, k, v, mask, hidden=hidden: attention(q, k, v, mask, dim=1, hidden=hidden),
            )
            for hidden in (float("-inf"), -1e9)
        ),
        *(
            (
                "the mask is read the other way round: it is True where a word counts, and the others get -inf.",
                lambda q, k, v, mask, hidden=hidden: attention(q, k, v, ~mask, hidden=hidden),
            )
            for hidden in (float("-inf"), -1e9)
        ),
        (
            "the products are divided by the root of the number of words; d is the width of a query.",
            lambda q, k, v, mask: attention(q, k, v, mask, scale=k.shape[1] ** 0.5),
        ),
        (
            "there is no softmax: each pixel's row of products must become shares that add up to 1.",
            lambda q, k, v, mask: (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 * mask[:, None]) @ v,
        ),
        (
            "each pixel takes the one word that fits best: softmax makes shares, the maximum does not.",
            lambda q, k, v, mask: attention(q, k, v, mask, scale=1e-6),
        ),
    ),
    hints=(
        "Compare every pixel with every word, turn each pixel's row into shares, mix the values by these shares.",
        "q @ k.transpose(1, 2) is (B, N, L); hidden words get -inf in it, through mask[:, None]; then softmax(-1).",
        "Four operations in this order: product over the root of d, masked_fill with ~mask[:, None], softmax over the "
        "words, product with v.",
    ),
)
