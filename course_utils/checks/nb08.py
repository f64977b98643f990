"""The exercises of notebook 08: from a text vector to a picture vector."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb08_vectors import SYMPTOMS


# ------------------------------------------------------------------ how near one vector may come
def cone_case(g: torch.Generator, i: int) -> tuple:
    """(vectors (N, D),): unit vectors of the pictures of one caption, more or less alike."""
    n, dim = 5 + i, 6
    return (F.normalize(torch.randn(dim, generator=g) + 0.7 * torch.randn(n, dim, generator=g), dim=1),)


def two_cosines(v, pair=None, best=None, own=False):
    """Mean cosine of two pictures, and of the best vector with all; with what can be mistaken as arguments."""
    other = torch.ones(len(v), len(v), dtype=torch.bool) if own else ~torch.eye(len(v), dtype=torch.bool)
    first = (v @ v.T)[other].mean() if pair is None else pair(v)
    return torch.stack([first, v.mean(0).norm() if best is None else best(v)])


CEILING = Exercise(
    reference=two_cosines,
    cases=cone_case,
    mistakes=(
        (
            "the first number counts each picture with itself, whose cosine is 1: leave the diagonal out.",
            lambda v: two_cosines(v, own=True),
        ),
        (
            "the second number multiplies with the mean as it is, which is shorter than 1: bring it to length 1 first.",
            lambda v: two_cosines(v, best=lambda v: (v @ v.mean(0)).mean()),
        ),
        (
            "the second number is that of the best of the pictures; any vector of length 1 may answer.",
            lambda v: two_cosines(v, best=lambda v: (v @ v.T).mean(1).max()),
        ),
        (
            "the second number is the largest cosine of the mean with a picture; the mean over all of them is asked.",
            lambda v: two_cosines(v, best=lambda v: (v @ F.normalize(v.mean(0), dim=0)).max()),
        ),
        ("the two numbers are exchanged: first the pictures among themselves.", lambda v: two_cosines(v).flip(0)),
        (
            "the second number is the root of the first, which holds for many pictures only: measure it.",
            lambda v: two_cosines(v, best=lambda v: (v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean().sqrt()),
        ),
    ),
    hints=(
        "All cosines of a set stand in one table, vectors @ vectors.T. Which of its numbers are of no use?",
        "The mean cosine of a vector a with all pictures is a times the mean of the pictures. Where must a point?",
        "(v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean(), and the length of v.mean(dim=0); torch.stack both.",
    ),
)


# ------------------------------------------------------------------ where noise wins
def scale_case(g: torch.Generator, i: int) -> tuple:
    """(x0 (N, D), alpha_bar (T,)): vectors of some scale, and a cosine schedule."""
    t = torch.arange(1, 101, dtype=torch.float64) / 101
    scale = (0.08, 0.25, 0.6, 1.5, 3.0)[i]
    return scale * (torch.randn(20, 30, generator=g) + 0.3), torch.cos(t * torch.pi / 2) ** 2


def first_step(x0, alpha_bar, power=None, signal=lambda a: a, noise=lambda a: 1 - a, shift=0):
    """The first step at which noise is as strong as the signal, with what can be mistaken as arguments."""
    strength = x0.square().mean() if power is None else power(x0)
    return (signal(alpha_bar) * strength <= noise(alpha_bar)).long().argmax() + shift


STEP = Exercise(
    reference=first_step,
    cases=scale_case,
    mistakes=(
        (
            "the scale of the vectors has no say here: their mean square multiplies alpha_bar.",
            lambda x, a: first_step(x, a, power=lambda x: 1.0),
        ),
        (
            "this takes the squared length of a vector, the sum over its numbers; noise has strength 1 in each number.",
            lambda x, a: first_step(x, a, power=lambda x: x.square().sum(1).mean()),
        ),
        (
            "this compares sizes with squares: take the mean square, not its root.",
            lambda x, a: first_step(x, a, power=lambda x: x.square().mean().sqrt()),
        ),
        (
            "this is the last step at which the signal wins; the one after it is asked.",
            lambda x, a: first_step(x, a) - 1,
        ),
        (
            "alpha_bar is a share of the variance already: take both roots, or none.",
            lambda x, a: first_step(x, a, noise=lambda a: (1 - a).sqrt()),
        ),
    ),
    hints=(
        "xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise: what is the mean square of each part?",
        "Signal: alpha_bar times the mean square of x0; noise: 1 - alpha_bar. The first t at which it is not less.",
        "argmax gives the first True: (alpha_bar * x0.square().mean() <= 1 - alpha_bar).long().argmax().",
    ),
)


# ------------------------------------------------------------------ buckets of equal width
def numbers_case(g: torch.Generator, i: int) -> tuple:
    """(x (N, K), buckets): numbers along K directions, of different spread and place, and how many buckets."""
    spread = torch.tensor([3.0, 1.0, 0.4])
    return spread * torch.randn(30 + i, 3, generator=g) + torch.randn(3, generator=g), 3 + i


def even(x, buckets, low=None, high=None, center=0.5):
    """Edges and centres of buckets of one width, with what can be mistaken as arguments."""
    low = x.amin(0) if low is None else low
    high = x.amax(0) if high is None else high
    ends = low[:, None] + (high - low)[:, None] * torch.arange(buckets + 1) / buckets  # (K, V + 1)
    return ends[:, 1:-1], (1 - center) * ends[:, :-1] + center * ends[:, 1:]


def filled(x, buckets):
    """Edges between equally full buckets, and their middles."""
    ends = torch.quantile(x, torch.arange(buckets + 1) / buckets, dim=0).T
    return ends[:, 1:-1], (ends[:, :-1] + ends[:, 1:]) / 2


def means(x, buckets):
    """Buckets of one width that stand for the mean of what is in them."""
    edges, _ = even(x, buckets)
    codes = torch.searchsorted(edges.contiguous(), x.T.contiguous())  # (K, N)
    hits = F.one_hot(codes, buckets).to(x)  # (K, N, V)
    return edges, torch.einsum("kn,knv->kv", x.T, hits) / hits.sum(1).clamp(min=1)


BUCKETS = Exercise(
    reference=even,
    cases=numbers_case,
    mistakes=(
        (
            "one range serves all directions here; each has a smallest and largest number of its own: amin(dim=0).",
            lambda x, n: even(x, n, x.min().expand(x.shape[1]), x.max().expand(x.shape[1])),
        ),
        ("each centre is the left end of its bucket; the middle is asked.", lambda x, n: even(x, n, center=0.0)),
        ("each centre is the right end of its bucket; the middle is asked.", lambda x, n: even(x, n, center=1.0)),
        (
            "these buckets run from 0 to the largest number; begin at the smallest.",
            lambda x, n: even(x, n, torch.zeros(x.shape[1])),
        ),
        ("these buckets are equally full, as before; equally wide is asked.", filled),
        ("each centre is the mean of the numbers in its bucket; the middle of the bucket is asked.", means),
    ),
    hints=(
        "The smallest and the largest number of each direction, and V equal parts between.",
        "V buckets have V + 1 ends; the edges are those ends without the first and the last.",
        "ends = low[:, None] + (high - low)[:, None] * torch.arange(V + 1) / V; edges ends[:, 1:-1]; the centres are "
        "the means of neighbours, (ends[:, :-1] + ends[:, 1:]) / 2.",
    ),
)


# ------------------------------------------------------------------ what a draw costs
def sizes_case(g: torch.Generator, i: int) -> tuple:
    """(length, num_dims, steps, draws)."""
    return tuple(int(torch.randint(low, high, (), generator=g)) for low, high in ((3, 30), (10, 320), (5, 64), (2, 5)))


def counted(length, num_dims, steps, draws, prefix=1, codes=1, extra=4, changing=3, once=1):
    """Tokens that run through each prior for a caption, with what can be mistaken as arguments."""
    ar = length + prefix + num_dims + codes - 1
    return ar, draws * steps * (length + extra), once * (length + 1) + draws * steps * changing


COST = Exercise(
    reference=counted,
    cases=sizes_case,
    mistakes=(
        (
            "the first number runs the last code too; nothing is drawn after it.",
            lambda *a: counted(*a, codes=2),
        ),
        ("the first number forgets the text vector, which stands before the codes.", lambda *a: counted(*a, prefix=0)),
        (
            "the first number begins anew for each code; keys and values of what is known are kept.",
            lambda n, k, s, d: (sum(n + 1 + j for j in range(k + 1)), *counted(n, k, s, d)[1:]),
        ),
        (
            "the second number is of one draw.",
            lambda n, k, s, d: (counted(n, k, s, d)[0], s * (n + 4), counted(n, k, s, d)[2]),
        ),
        (
            "the second number forgets the four tokens after the text's: vector, step, noised vector, query.",
            lambda *a: counted(*a, extra=0),
        ),
        (
            "the third number runs the text vector at every step; it stands before the step, so it never changes.",
            lambda *a: counted(*a, changing=4),
        ),
        ("the third number never runs the text: it runs once.", lambda *a: counted(*a, once=0)),
    ),
    hints=(
        "Write down the tokens in their order, and mark those that are new at each step.",
        "AR: caption, text vector, then every code but the last. Diffusion: L + 4 at each step of each draw. With a "
        "causal mask, what stands before the step token is the same at all steps.",
        "(L + 1 + K, draws * steps * (L + 4), L + 1 + draws * steps * 3).",
    ),
)


EXERCISES = {
    "08-ceiling": CEILING,
    "08-step": STEP,
    "08-buckets": BUCKETS,
    "08-cost": COST,
    "08-symptoms": SYMPTOMS,
}
