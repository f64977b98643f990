"""The exercises of notebook 07: words and pictures in one space."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb07_losses import FLOOR, SHARE, SIGMOID, vectors


# ------------------------------------------------------------------ the rank of the right one
def retrieval_case(g: torch.Generator, i: int) -> tuple:
    """(query (N, D), keys (M, D), right (N,)): the right key is near, but seldom the nearest."""
    n, m, dim = 7 + i, 9 + i, 5
    keys, right = vectors(m, dim, g), torch.randint(m, (n,), generator=g)
    return F.normalize(keys[right] + 0.8 * torch.randn(n, dim, generator=g), dim=1), keys, right


def ranks(cosines, right):
    """How many keys are at least as near as the right one, itself included: (N,)."""
    own = cosines.gather(1, right[:, None])
    return (cosines >= own).sum(1).float()


RANK = Exercise(
    reference=lambda query, keys, right: 1 / ranks(query @ keys.T, right),
    cases=retrieval_case,
    mistakes=(
        ("this is the rank; 1 over it is asked.", lambda q, k, r: ranks(q @ k.T, r)),
        (
            "the nearest has rank 0 here, and 1 / 0 is infinite: count from 1.",
            lambda q, k, r: 1 / (ranks(q @ k.T, r) - 1),
        ),
        ("ranks begin with 2 here: the nearest has rank 1.", lambda q, k, r: 1 / (ranks(q @ k.T, r) + 1)),
        ("the farthest comes first here: sort with descending=True.", lambda q, k, r: 1 / ranks(-q @ k.T, r)),
        ("one number for all queries; one for each is asked, (N,).", lambda q, k, r: (1 / ranks(q @ k.T, r)).mean()),
        (
            "this asks whether the nearest is right (R@1); a right key in second place counts a half.",
            lambda q, k, r: (ranks(q @ k.T, r) == 1).float(),
        ),
        (
            "argsort gives the key at each place; the place of a key is asked: look where argsort equals right.",
            lambda q, k, r: 1 / (1 + (q @ k.T).argsort(dim=1, descending=True).gather(1, r[:, None])[:, 0].float()),
        ),
    ),
    hints=(
        "Sort the keys by their cosine with the query, and look where the right one stands.",
        "Its rank is 1 + the number of keys that are nearer than it: compare each row with its own right cosine.",
        "cosines = query @ keys.T; own = cosines.gather(1, right[:, None]); the rank is (cosines >= own).sum(dim=1).",
    ),
)


# ------------------------------------------------------------------ several phrasings of one name
def phrasings_case(g: torch.Generator, i: int) -> tuple:
    """(text_embed (C, P, D),): unit vectors of P phrasings of C names."""
    return (F.normalize(torch.randn(4 + i, 3, 1, generator=g) + torch.randn(4 + i, 3, 6, generator=g), dim=2),)


ENSEMBLE = Exercise(
    reference=lambda text: F.normalize(text.mean(1), dim=1),
    cases=phrasings_case,
    mistakes=(
        (
            "a mean of unit vectors is shorter than 1, the shorter the less they agree: normalize after the mean.",
            lambda text: text.mean(1),
        ),
        ("this adds the phrasings up, and their lengths differ: normalize the sum.", lambda text: text.sum(1)),
        (
            "the mean runs over the names; it is the P phrasings, dim=1, that are averaged.",
            lambda t: F.normalize(t.mean(0), dim=1),
        ),
        ("only the first phrasing is used.", lambda text: text[:, 0]),
        ("each column has length 1 here; each row is asked: dim=1, the last.", lambda t: F.normalize(t.mean(1), dim=0)),
        ("all phrasings are still there, normalized as they were: average them.", lambda t: F.normalize(t, dim=2)),
    ),
    hints=(
        "What do all phrasings of a name have in common? Their mean points there.",
        "A mean of unit vectors is no unit vector. Cosines want one.",
        "F.normalize(text_embed.mean(dim=1), dim=1).",
    ),
)


# ------------------------------------------------------------------ three numbers that find a broken run
def patient_case(g: torch.Generator, i: int) -> tuple:
    """(image_embed, text_embed), (N, D) each: lengths that are off, clouds that are narrow, pairs that are noisy."""
    n, dim = 9 + i, 6
    center, text = 2 * torch.randn(dim, generator=g), torch.randn(n, dim, generator=g)
    image = text + (0.4 + 0.3 * i) * torch.randn(n, dim, generator=g)
    lengths = 1 + 0.5 * torch.rand(n, 1, generator=g)
    return F.normalize(image + center, dim=1) * lengths, F.normalize(text, dim=1)


def three(image, text, length=None, spread=None, hits=None, unit=True, own=False):
    """The three symptoms, with what can be mistaken as arguments."""
    x, y = (F.normalize(v, dim=1) for v in (image, text))
    pair = x if unit else image
    other = torch.ones(len(x), len(x), dtype=torch.bool) if own else ~torch.eye(len(x), dtype=torch.bool)
    found = [
        (image.norm(dim=1) - 1).abs().max() if length is None else length(image),
        (pair @ pair.T)[other].mean() if spread is None else spread(x),
        ((x @ y.T).argmax(1) == torch.arange(len(x))).float().mean() if hits is None else hits(x, y),
    ]
    return torch.stack(found)


SYMPTOMS = Exercise(
    reference=lambda image, text: three(image, text),
    cases=patient_case,
    mistakes=(
        (
            "the second number counts each picture with itself, whose cosine is 1: leave the diagonal out.",
            lambda a, b: three(a, b, own=True),
        ),
        (
            "the second number multiplies vectors of other lengths: cosines need unit length, missing or not.",
            lambda a, b: three(a, b, unit=False),
        ),
        (
            "the first number is a mean, in which long and short ones hide: the largest distance from 1 is asked.",
            lambda a, b: three(a, b, length=lambda v: (v.norm(dim=1) - 1).abs().mean()),
        ),
        (
            "the first number is the length itself; its distance from 1 is asked.",
            lambda a, b: three(a, b, length=lambda v: v.norm(dim=1).max()),
        ),
        (
            "the first number is 0 for every patient: measure the lengths before you bring them to 1.",
            lambda a, b: three(a, b, length=lambda v: torch.zeros(())),
        ),
        (
            "the third number lets captions look for pictures: pictures look for captions, argmax over dim=1.",
            lambda a, b: three(a, b, hits=lambda x, y: ((x @ y.T).argmax(0) == torch.arange(len(x))).float().mean()),
        ),
        (
            "the third number is the mean cosine of the pairs; how often the own caption is the nearest is asked.",
            lambda a, b: three(a, b, hits=lambda x, y: (x * y).sum(1).mean()),
        ),
        (
            "the second number compares pictures with captions; pictures with other pictures are asked.",
            lambda a, b: three(
                a, b, spread=lambda x: (x @ F.normalize(b, dim=1).T)[~torch.eye(len(x), dtype=torch.bool)].mean()
            ),
        ),
    ),
    hints=(
        "Lengths first; then bring both to unit length for the other two.",
        "~torch.eye(N, dtype=torch.bool) is true where two pictures differ; argmax(dim=1) is the nearest caption.",
        "x = F.normalize(image_embed, dim=1), y likewise; torch.stack of (norm - 1).abs().max(), "
        "(x @ x.T)[~eye].mean() and ((x @ y.T).argmax(1) == torch.arange(N)).float().mean().",
    ),
)


EXERCISES = {
    "07-rank": RANK,
    "07-floor": FLOOR,
    "07-share": SHARE,
    "07-sigmoid": SIGMOID,
    "07-ensemble": ENSEMBLE,
    "07-symptoms": SYMPTOMS,
}
