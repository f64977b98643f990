"""Exercises of notebook 11 whose answer is a pair of matrices: many pairs have one product, so that is what counts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_utils.checks.core import Exercise


def product_of(found) -> torch.Tensor | str:
    """B A of an answer, or a complaint about what it is."""
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(torch.is_tensor(x) for x in found):
        return "the function should return two tensors, A and then B: return A, B."
    A, B = found
    if A.ndim != 2 or B.ndim != 2:
        return f"A is (r, C_in) and B (C_out, r); here they are {tuple(A.shape)} and {tuple(B.shape)}."
    if A.shape[0] != B.shape[1]:
        exchanged = A.shape[1] == B.shape[0] and " Are they exchanged? A comes first."
        return f"B A cannot be formed of B {tuple(B.shape)} and A {tuple(A.shape)}.{exchanged or ''}"
    return B @ A


def judge_product(right: Callable, rank: Callable, mistakes: tuple) -> Callable:
    """An `examine` that compares B A with right(*args), wants rank(*args) rows in A, and knows some mistakes."""

    def examine(answer, args) -> str | None:
        found = answer(*args)
        product, wanted = product_of(found), right(*args)
        if isinstance(product, str):
            return product
        if product.shape != wanted.shape:
            return f"B A has shape {tuple(product.shape)}, but {tuple(wanted.shape)} is asked: are A and B exchanged?"
        if torch.allclose(product, wanted, rtol=1e-3, atol=1e-3):
            rows, count = len(found[0]), rank(*args)
            return None if rows == count else f"right product, but A has {rows} rows where the rank is {count}."
        for message, mistake in mistakes:
            if torch.allclose(product, mistake(*args), rtol=1e-3, atol=1e-3):
                return message
        return "not yet: B A is something else than what is asked; compare `B @ A` with it on a small example."

    return examine


# ------------------------------------------------------------------ two branches in one
def mix_case(g: torch.Generator, i: int) -> tuple:
    """(A1, B1, A2, B2, w1, w2): two branches of different rank beside the same layer."""
    ranks = (2, 3 + i % 2)
    parts = [x for r in ranks for x in (torch.randn(r, 5, generator=g), torch.randn(4, r, generator=g))]
    return *parts, (0.7, 1.0, -0.5, 2.0, 0.3)[i], (0.4, -1.5, 0.6, 0.5, 1.2)[i]


def mixed(A1, B1, A2, B2, w1, w2):
    """What the two add to the weight, each as strongly as its number says."""
    return w1 * B1 @ A1 + w2 * B2 @ A2


MIX = Exercise(
    reference=None,
    cases=mix_case,
    examine=judge_product(
        mixed,
        lambda A1, B1, A2, B2, w1, w2: len(A1) + len(A2),
        (
            (
                "the weights are missing: multiply each B (or each A) by its own.",
                lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, 1, 1),
            ),
            (
                "the weights are squared: multiply B or A, not both.",
                lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, w1**2, w2**2),
            ),
            ("the two weights are exchanged.", lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, w2, w1)),
            ("only the first branch is weighted.", lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, w1, 1)),
            ("only the second branch is weighted.", lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, 1, w2)),
            (
                "both branches have both weights: weight each B before you put them side by side.",
                lambda A1, B1, A2, B2, w1, w2: mixed(A1, B1, A2, B2, w1 * w2, w1 * w2),
            ),
        ),
    ),
    hints=(
        "B A is a sum over r: one row of A times one column of B, r times. A longer sum has more rows and columns.",
        "The A's stand on top of each other, (r1 + r2, C_in); the B's side by side, (C_out, r1 + r2).",
        "A = torch.cat([A1, A2]); B = torch.cat([w1 * B1, w2 * B2], dim=1).",
    ),
)


# ------------------------------------------------------------------ the best branch for a change that is known
def change_case(g: torch.Generator, i: int) -> tuple:
    """(delta (C_out, C_in), rank): a change whose directions differ clearly in size."""
    rows, columns = 6 + i, 9 - i
    U, V = (torch.linalg.qr(torch.randn(n, n, generator=g)).Q for n in (rows, columns))
    small = min(rows, columns)
    return U[:, :small] * 4 * 0.6 ** torch.arange(small) @ V[:small], 1 + i % 3


def best(delta, rank, first=0, power=1.0):
    """The sum of the strongest directions, with what can be mistaken as arguments."""
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    kept = slice(first, first + rank)
    return U[:, kept] * S[kept] ** power @ Vh[kept]


SHORTEN = Exercise(
    reference=None,
    cases=change_case,
    examine=judge_product(
        best,
        lambda delta, rank: rank,
        (
            (
                "the singular values are missing: U and V are of length 1 and know no sizes.",
                lambda d, r: best(d, r, power=0),
            ),
            (
                "the singular values are there twice: give them to A or to B, or their roots to both.",
                lambda d, r: best(d, r, power=2),
            ),
            (
                "the singular values' roots are there once: both A and B need them, or one of the two the whole.",
                lambda d, r: best(d, r, power=0.5),
            ),
            (
                "these are the weakest directions: svd sorts downwards, so the strongest come first.",
                lambda d, r: best(d, r, first=min(d.shape) - r),
            ),
            ("the strongest direction is left out.", lambda d, r: best(d, r, first=1)),
            ("this is the whole change: keep the first `rank` directions.", lambda d, r: d),
            (
                "these are the first rows of the change; keep its strongest directions.",
                lambda d, r: torch.where(torch.arange(len(d))[:, None] < r, d, torch.zeros(())),
            ),
        ),
    ),
    hints=(
        "torch.linalg.svd takes a matrix apart into directions, the strongest first.",
        "U, S, Vh = torch.linalg.svd(delta, full_matrices=False); delta is U * S @ Vh, with all directions.",
        "A = Vh[:rank]; B = U[:, :rank] * S[:rank].",
    ),
)
