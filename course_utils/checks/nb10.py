"""The exercises of notebook 10: a loss with a reminder, a name without a past, and numbers for both."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise


# ------------------------------------------------------------------ one batch, two losses
def loss_case(g: torch.Generator, i: int) -> tuple:
    """(pred, target, prior_weight): the second half of the batch is of the class, and farther off."""
    shape = (2 * (2 + i), 4, 3, 3)
    pred, far = torch.randn(shape, generator=g), torch.ones(shape)
    far[len(far) // 2 :] = 2.0
    return pred, pred + far * torch.randn(shape, generator=g), (1.0, 0.3, 3.0, 0.0, 2.0)[i]


def loss(pred, target, prior_weight, cut=lambda x: x.chunk(2), weights=lambda w: (1.0, w), mean=F.mse_loss):
    """L_instance + prior_weight * L_prior."""
    (p, p_prior), (q, q_prior), (first, second) = cut(pred), cut(target), weights(prior_weight)
    return first * mean(p, q) + second * mean(p_prior, q_prior)


LOSS = Exercise(
    reference=loss,
    cases=loss_case,
    mistakes=(
        (
            "this is the plain mean over the batch: the two halves are weighed differently.",
            lambda p, q, w: F.mse_loss(p, q),
        ),
        (
            "the weight is on the wrong half: the first half is the subject's, the second the class's.",
            lambda p, q, w: loss(p, q, w, weights=lambda w: (w, 1.0)),
        ),
        ("both halves are multiplied by the weight.", lambda p, q, w: loss(p, q, w, weights=lambda w: (w, w))),
        ("the weight is missing.", lambda p, q, w: loss(p, q, 1.0)),
        (
            "the halves are even and odd examples here; the batch holds n of the subject, then n of the class.",
            lambda p, q, w: loss(p, q, w, lambda x: (x[::2], x[1::2])),
        ),
        (
            "this is a mix, (1 - weight) to weight; in the paper the subject's part always counts once.",
            lambda p, q, w: loss(p, q, w, weights=lambda w: (1 - w, w)),
        ),
        (
            "everything is half as large: the mean over 2n is half of each half's mean.",
            lambda p, q, w: loss(p, q, w) / 2,
        ),
        (
            "these are sums; a mean squared error does not grow with the batch.",
            lambda p, q, w: loss(p, q, w, mean=lambda a, b: (a - b).square().sum()),
        ),
        ("the errors are not squared.", lambda p, q, w: loss(p, q, w, mean=F.l1_loss)),
    ),
    hints=(
        "Two halves, two mean squared errors, one sum.",
        "pred.chunk(2) cuts in two: first the subject's half, then the class's.",
        "p, p_prior = pred.chunk(2); the same for target; then mse(p, q) + prior_weight * mse(p_prior, q_prior).",
    ),
)


# ------------------------------------------------------------------ a batch of pairs
def pairs_case(g: torch.Generator, i: int) -> tuple:
    """(z, context, n, generator) of 12 or more examples."""
    count = 12 + 2 * i
    z, context = torch.randn(count, 2, 3, 3, generator=g), torch.randn(count, 4, 5, generator=g)
    return z, context, 3 + i, torch.Generator().manual_seed(int(torch.randint(10_000, (), generator=g)))


def draw(z, context, n, generator):
    """n examples with replacement, each with its own context."""
    index = torch.randint(len(z), (n,), generator=generator)
    return z[index], context[index]


def draw_apart(z, context, n, generator):
    """The mistake: latents and contexts are drawn one after the other."""
    return draw(z, context, n, generator)[0], draw(z, context, n, generator)[1]


def draw_once(z, context, n, generator):
    """The mistake: without replacement."""
    index = torch.randperm(len(z), generator=generator)[:n]
    return z[index], context[index]


PAIRS = Exercise(
    reference=draw,
    cases=pairs_case,
    mistakes=(
        ("each latent has got another one's sentence: draw one index and use it twice.", draw_apart),
        ("no example can come twice here; a batch may be larger than the set. Draw with replacement.", draw_once),
        ("these are always the first n: nothing is drawn.", lambda z, c, n, g: (z[:n], c[:n])),
        ("latents and contexts are exchanged.", lambda z, c, n, g: draw(z, c, n, g)[::-1]),
        (
            "the contexts are those of the first n examples, whatever was drawn.",
            lambda z, c, n, g: (draw(z, c, n, g)[0], c[:n]),
        ),
    ),
    hints=(
        "Which latent goes with which sentence? That must survive the draw.",
        "torch.randint(len(z), (n,), generator=generator) gives n row numbers, some of them twice.",
        "index = torch.randint(len(z), (n,), generator=generator); return z[index], context[index].",
    ),
)


# ------------------------------------------------------------------ how familiar is a name
def names_case(g: torch.Generator, i: int) -> tuple:
    """(pieces, counts): token numbers of five names, of one to four pieces each, and how often each token was seen."""
    counts = torch.randint(5000, (60,), generator=g)
    lengths = torch.randint(1, 5, (5,), generator=g).tolist()
    return [torch.randint(60, (length,), generator=g).tolist() for length in lengths], counts


def familiarity(pieces, counts, fold=torch.amax):
    """The count of each name's best known piece, (names,)."""
    return torch.stack([fold(counts[index], 0) for index in pieces])


NAMES = Exercise(
    reference=familiarity,
    cases=names_case,
    mistakes=(
        (
            "this is each name's rarest piece; one well-known piece brings its meaning along: take the largest.",
            lambda p, c: familiarity(p, c, torch.amin),
        ),
        ("these are sums: a long name of rare pieces would count as known.", lambda p, c: familiarity(p, c, torch.sum)),
        ("only the first piece of each name is looked up.", lambda p, c: c[[index[0] for index in p]]),
        ("only the last piece of each name is looked up.", lambda p, c: c[[index[-1] for index in p]]),
        ("these are token numbers: look them up in counts.", lambda p, c: torch.tensor([max(index) for index in p])),
        ("these are shares; counts are asked.", lambda p, c: familiarity(p, c) / c.sum()),
    ),
    hints=(
        "A name brings the past of its best known piece along.",
        "counts[index] with a list of token numbers gives their counts; take the largest.",
        "torch.stack([counts[index].max() for index in pieces]).",
    ),
)


# ------------------------------------------------------------------ subject fidelity, and variety
def feature_case(g: torch.Generator, i: int) -> tuple:
    """(a, b): features of 4 and more drawn pictures and of 3 and more real ones, of different lengths."""
    shared = torch.randn(6, generator=g)
    return (shared + torch.randn(4 + i, 6, generator=g)) * 3, shared + torch.randn(3 + i, 6, generator=g)


def cosine(a, b, fold=torch.mean):
    """The mean over all pairs."""
    return fold(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T)


FIDELITY = Exercise(
    reference=cosine,
    cases=feature_case,
    mistakes=(
        (
            "these are dot products of features of any length: bring each to length 1 first.",
            lambda a, b: (a @ b.T).mean(),
        ),
        (
            "this compares the two mean features; all pairs are asked, each with its own cosine.",
            lambda a, b: F.cosine_similarity(a.mean(0), b.mean(0), dim=0),
        ),
        ("this is the best pair only; the mean over all pairs is asked.", lambda a, b: cosine(a, b, torch.amax)),
        (
            "this is the nearest real picture of each; the mean over all pairs is asked.",
            lambda a, b: cosine(a, b, lambda x: x.amax(1).mean()),
        ),
        ("this is a distance, 1 - cosine; fidelity grows with likeness.", lambda a, b: 1 - cosine(a, b)),
        (
            "the features are normalised over the pictures; each picture's own vector should have length 1.",
            lambda a, b: (F.normalize(a, dim=0) @ F.normalize(b, dim=0).T).mean(),
        ),
    ),
    hints=(
        "Every drawn picture meets every real one. The cosine is the dot product of vectors of length 1.",
        "F.normalize(a, dim=1) brings each row to length 1; then one matrix product holds all cosines.",
        "(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).mean().",
    ),
)


def spread_case(g: torch.Generator, i: int) -> tuple:
    """(distance, prompts): symmetric distances of 6 and more pictures, drawn for two prompts."""
    half = torch.rand(6 + i, 6 + i, generator=g).triu(1)
    prompts = ["snow", "beach", "snow", "snow", "beach", "snow", *["beach"] * i]
    return half + half.T + 5 * torch.tensor([[float(a != b) for a in prompts] for b in prompts]), prompts


def spread(distance, prompts, partners=range, same=True):
    """The mean over pairs i < j of one prompt."""
    n = len(prompts)
    return torch.stack(
        [distance[i, j] for j in range(n) for i in partners(j) if (prompts[i] == prompts[j]) == same]
    ).mean()


SPREAD = Exercise(
    reference=spread,
    cases=spread_case,
    mistakes=(
        (
            "pictures of different prompts are compared too; their scenes differ, and that is not variety.",
            lambda d, p: d[~torch.eye(len(p), dtype=torch.bool)].mean(),
        ),
        (
            "each picture is compared with itself as well: these zeros make everything look alike.",
            lambda d, p: spread(d, p, lambda j: range(len(p))),
        ),
        (
            "each picture is compared with itself as well: begin at j = i + 1.",
            lambda d, p: spread(d, p, lambda j: range(j + 1)),
        ),
        ("these are the pairs of different prompts.", lambda d, p: spread(d, p, same=False)),
        (
            "these are sums over the pairs; a mean is asked.",
            lambda d, p: torch.stack([d[i, j] for j in range(len(p)) for i in range(j) if p[i] == p[j]]).sum(),
        ),
        (
            "only neighbours are compared; every two pictures of a prompt are a pair.",
            lambda d, p: torch.stack([d[i, i + 1] for i in range(len(p) - 1) if p[i] == p[i + 1]]).mean(),
        ),
    ),
    hints=(
        "Which pairs may be compared? Two pictures of one prompt, and never one with itself.",
        "Collect distance[i, j] for i < j where prompts[i] == prompts[j], then take the mean.",
        "torch.stack([distance[i, j] for j in range(n) for i in range(j) if prompts[i] == prompts[j]]).mean().",
    ),
)


EXERCISES = {"10-loss": LOSS, "10-pairs": PAIRS, "10-names": NAMES, "10-fidelity": FIDELITY, "10-diversity": SPREAD}
