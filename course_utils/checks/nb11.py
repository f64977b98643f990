"""The exercises of notebook 11: a LoRA branch beside a frozen layer."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb11_lora import MIX, SHORTEN


# ------------------------------------------------------------------ how many numbers learn
def count_case(g: torch.Generator, i: int) -> tuple:
    """(shapes (L, 2) of C_out and C_in, ranks (R,)), whole numbers."""
    return torch.randint(5, 400, (3 + i, 2), generator=g), torch.tensor([1, 2, 4 + i, 16])


COUNT = Exercise(
    reference=lambda shapes, ranks: ranks * shapes.sum(),
    cases=count_case,
    mistakes=(
        (
            "this is the whole weight, C_out times C_in; a LoRA branch has r C_in + C_out r numbers.",
            lambda shapes, ranks: ranks * 0 + shapes.prod(1).sum(),
        ),
        (
            "C_out and C_in are multiplied: A has r C_in numbers and B C_out r, and they add up.",
            lambda shapes, ranks: ranks * shapes.prod(1).sum(),
        ),
        ("only A is counted: B has C_out r numbers more.", lambda shapes, ranks: ranks * shapes[:, 1].sum()),
        ("only B is counted: A has r C_in numbers more.", lambda shapes, ranks: ranks * shapes[:, 0].sum()),
        (
            "the rank is squared: it stands once in A and once in B, and the two are added.",
            lambda shapes, ranks: ranks**2 * shapes.sum(),
        ),
        (
            "the layers are averaged; all of them learn, so add them up.",
            lambda shapes, ranks: ranks * shapes.sum() // len(shapes),
        ),
        (
            "this is twice too many: C_in and C_out are each counted once.",
            lambda shapes, ranks: 2 * ranks * shapes.sum(),
        ),
        (
            "2 d r holds for square weights; here C_out and C_in differ.",
            lambda shapes, ranks: 2 * ranks * shapes[:, 0].sum(),
        ),
        ("biases are counted; A and B have none.", lambda shapes, ranks: ranks * shapes.sum() + shapes[:, 0].sum()),
    ),
    hints=(
        "Count the numbers of A and of B for one layer, then add up the layers.",
        "A is (r, C_in), B is (C_out, r): r (C_in + C_out) together.",
        "ranks * shapes.sum().",
    ),
)


# ------------------------------------------------------------------ one layer with its branch
def layer_case(g: torch.Generator, i: int) -> tuple:
    """(x (N, C_in), W (C_out, C_in), A (r, C_in), B (C_out, r), alpha)."""
    rank, c_in, c_out = 2 + i, 5, 5 if i == 0 else 4 + i
    x, W, A = (torch.randn(rows, c_in, generator=g) for rows in (3, c_out, rank))
    return x, W, A, torch.randn(c_out, rank, generator=g), (1.0, 6.0, 7.0, 2.5, 16.0)[i]


def layer(x, W, A, B, scale, base=1.0):
    """x W^T and the branch, scaled."""
    return base * x @ W.T + scale * x @ A.T @ B.T


LAYER = Exercise(
    reference=lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / len(A)),
    cases=layer_case,
    mistakes=(
        ("alpha / r is missing.", lambda x, W, A, B, alpha: layer(x, W, A, B, 1)),
        ("alpha is not divided by the rank, A's number of rows.", lambda x, W, A, B, alpha: layer(x, W, A, B, alpha)),
        (
            "the rank is the number of A's rows (or B's columns), not the width of the layer.",
            lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / A.shape[1]),
        ),
        (
            "the rank is the number of A's rows (or B's columns), not the width of the layer.",
            lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / len(B)),
        ),
        ("alpha / r is upside down.", lambda x, W, A, B, alpha: layer(x, W, A, B, len(A) / alpha)),
        (
            "this divides by the root of the rank, as rank-stabilised LoRA does; LoRA divides by the rank.",
            lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / len(A) ** 0.5),
        ),
        (
            "the base layer is missing: a LoRA branch runs beside it.",
            lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / len(A), base=0),
        ),
        (
            "the base layer is scaled too: alpha / r belongs to the branch alone.",
            lambda x, W, A, B, alpha: layer(x, W, A, B, alpha / len(A), base=alpha / len(A)),
        ),
        ("the branch is subtracted.", lambda x, W, A, B, alpha: layer(x, W, A, B, -alpha / len(A))),
    ),
    hints=(
        "Two ways from x to the output: the base layer, and through A and then B. Add them.",
        "x @ W.T is the base layer; x @ A.T is (N, r), and @ B.T brings it to (N, C_out). r = len(A).",
        "x @ W.T + alpha / len(A) * x @ A.T @ B.T.",
    ),
)


# ------------------------------------------------------------------ merging, for a convolution
def merge_case(g: torch.Generator, i: int) -> tuple:
    """(W (C_out, C_in, k, k), A (r, C_in, k, k), B (C_out, r, 1, 1), alpha)."""
    rank, k = 2 + i % 3, 3 if i % 2 == 0 else 1
    W, A = torch.randn(6, 5, k, k, generator=g), torch.randn(rank, 5, k, k, generator=g)
    return W, A, torch.randn(6, rank, 1, 1, generator=g), (1.0, 6.0, 7.0, 2.5, 16.0)[i]


def merge(W, A, B, scale, base=1.0):
    """W + scale * B A, as a convolution's weight."""
    return base * W + scale * torch.einsum("or,rikl->oikl", B[:, :, 0, 0], A)


MERGE = Exercise(
    reference=lambda W, A, B, alpha: merge(W, A, B, alpha / len(A)),
    cases=merge_case,
    mistakes=(
        ("alpha / r is missing.", lambda W, A, B, alpha: merge(W, A, B, 1)),
        ("alpha is not divided by the rank.", lambda W, A, B, alpha: merge(W, A, B, alpha)),
        ("the rank is the number of A's rows, not of B's.", lambda W, A, B, alpha: merge(W, A, B, alpha / len(B))),
        (
            "the branch is subtracted: that is how a merged one is taken out again.",
            lambda W, A, B, alpha: merge(W, A, B, -alpha / len(A)),
        ),
        ("this is the change alone: add it to W.", lambda W, A, B, alpha: merge(W, A, B, alpha / len(A), base=0)),
        (
            "W is scaled too: alpha / r belongs to B A alone.",
            lambda W, A, B, alpha: merge(W, A, B, alpha / len(A), base=alpha / len(A)),
        ),
    ),
    hints=(
        "A kernel of k x k pixels is a row of C_in k k numbers: then B A is a product of matrices as before.",
        "A.flatten(1) is (r, C_in k k), B.flatten(1) is (C_out, r); .view_as(W) gives the product W's shape.",
        "W + alpha / len(A) * (B.flatten(1) @ A.flatten(1)).view_as(W).",
    ),
)


# ------------------------------------------------------------------ what the gradient says
def gradient_case(g: torch.Generator, i: int) -> tuple:
    """(x (N, C_in), dy (N, C_out), A (r, C_in), B (C_out, r), alpha)."""
    x, _, A, B, alpha = layer_case(g, i)
    return x, torch.randn(len(x), len(B), generator=g), A, B * (i > 0), alpha  # the first as training begins: B = 0


def gradients(x, dy, A, B, scale, mean=1.0):
    """dL/dA and dL/dB, where dy = dL/dy."""
    return scale / mean * B.T @ dy.T @ x, scale / mean * dy.T @ (x @ A.T)


GRADIENT = Exercise(
    reference=lambda x, dy, A, B, alpha: gradients(x, dy, A, B, alpha / len(A)),
    cases=gradient_case,
    mistakes=(
        (
            "alpha / r is missing: what scales the branch scales its gradients.",
            lambda x, dy, A, B, alpha: gradients(x, dy, A, B, 1),
        ),
        ("alpha is not divided by the rank.", lambda x, dy, A, B, alpha: gradients(x, dy, A, B, alpha)),
        (
            "the gradients are averaged over the examples; dy holds such a factor already, so add them up.",
            lambda x, dy, A, B, alpha: gradients(x, dy, A, B, alpha / len(A), mean=len(x)),
        ),
        (
            "the two are exchanged: return dA first, then dB.",
            lambda x, dy, A, B, alpha: gradients(x, dy, A, B, alpha / len(A))[::-1],
        ),
        (
            "the gradient of A does not pass through B: the chain rule goes back from y over B to A.",
            lambda x, dy, A, B, alpha: (alpha / len(A) * A * 0, gradients(x, dy, A, B, alpha / len(A))[1]),
        ),
        (
            "right up to sign: a gradient points uphill, the optimizer turns it round.",
            lambda x, dy, A, B, alpha: gradients(x, dy, A, B, -alpha / len(A)),
        ),
    ),
    hints=(
        "Write h = A x and y = ... + alpha / r B h. The chain rule goes back from y to B and h, and from h to A.",
        "dB is the outer product of dy and h, summed over examples, times alpha / r; dh = alpha / r B^T dy.",
        "s = alpha / len(A); return s * B.T @ dy.T @ x, s * dy.T @ (x @ A.T).",
    ),
)


EXERCISES = {
    "11-count": COUNT,
    "11-layer": LAYER,
    "11-merge": MERGE,
    "11-gradient": GRADIENT,
    "11-mix": MIX,
    "11-shorten": SHORTEN,
}
