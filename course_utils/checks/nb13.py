"""The exercises of notebook 13: what the field's library does, measured, transferred and repaired."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb13_pipeline import BATCH, LOOP, OPTIONS


# ------------------------------------------------------------------ one seed for each picture
def seeds_case(g: torch.Generator, i: int) -> tuple:
    """(seeds, shape of one picture's noise)."""
    return torch.randint(1000, (2 + i,), generator=g).tolist(), (4, 3 + i, 5)


def noises(seeds, shape, draw=torch.randn):
    """Each picture's noise from a generator of its own."""
    return torch.cat([draw(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


SEEDS = Exercise(
    reference=noises,
    cases=seeds_case,
    mistakes=(
        (
            "one generator draws for all: then the second picture depends on how many stand before it.",
            lambda seeds, shape: torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(seeds[0])),
        ),
        (
            "all pictures get the first seed's noise: give each its own generator.",
            lambda seeds, shape: noises([seeds[0]] * len(seeds), shape),
        ),
        (
            "the generators are seeded with the place in the batch, not with the seeds.",
            lambda seeds, shape: noises(range(len(seeds)), shape),
        ),
        (
            "the noise is uniform: torch.rand; diffusion starts from torch.randn.",
            lambda seeds, shape: noises(seeds, shape, torch.rand),
        ),
        (
            "the seeds are sorted: picture i belongs to seeds[i].",
            lambda seeds, shape: noises(sorted(seeds), shape),
        ),
    ),
    hints=(
        "Who draws picture 3 alone must get what stands at place 3 of a batch. What may its noise depend on?",
        "A torch.Generator of its own for each picture, with its seed; then put the noises together.",
        "torch.cat of torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) over the seeds.",
    ),
)


# ------------------------------------------------------------------ at what strength does a LoRA act?
def strength_case(g: torch.Generator, i: int) -> tuple:
    """(a layer's weight before, after loading and fusing, what the file promises to add): rounded, as in half."""
    before, promised = torch.randn(6 + i, 5, generator=g), torch.randn(6 + i, 5, generator=g) / 5
    rounding = torch.randn(6 + i, 5, generator=g) / 1000
    return before, before + (0.0, 1.0, 2.0, 0.25, 0.5)[i] * promised + rounding, promised


def strength(before, after, promised):
    """The factor that explains the change best, in the least squares' sense."""
    return ((after - before) * promised).sum() / promised.square().sum()


STRENGTH = Exercise(
    reference=strength,
    cases=strength_case,
    mistakes=(
        (
            "this is the cosine: it says whether the change points the right way, not how far it goes.",
            lambda before, after, promised: F.cosine_similarity((after - before).flatten(), promised.flatten(), dim=0),
        ),
        (
            "a ratio of lengths: rounding alone has a length too, and a file that does nothing would act a little.",
            lambda before, after, promised: (after - before).norm() / promised.norm(),
        ),
        (
            "divided number by number: where little is promised, rounding is divided by almost nothing.",
            lambda before, after, promised: ((after - before) / promised).mean(),
        ),
        (
            "the weight before is not taken away: the file adds, so the change counts.",
            lambda before, after, promised: (after * promised).sum() / promised.square().sum(),
        ),
        (
            "the change is counted from after to before.",
            lambda before, after, promised: -strength(before, after, promised),
        ),
        (
            "divide by the promised change's square, not by that of the change that came.",
            lambda before, after, promised: (
                ((after - before) * promised).sum() / (after - before).square().sum().clamp(min=1e-9)
            ),
        ),
        (
            "the square root is too much: both sums are squares already.",
            lambda before, after, promised: ((after - before) * promised).sum() / promised.square().sum().sqrt(),
        ),
    ),
    hints=(
        "You look for one number s with after - before = s · promised, as nearly as rounding lets it.",
        "Least squares: |change - s · promised|² is least where s is <change, promised> / <promised, promised>.",
        "((after - before) * promised).sum() / promised.square().sum().",
    ),
)


# ------------------------------------------------------------------ what a safety checker decides by
def checker_case(g: torch.Generator, i: int) -> tuple:
    """(vectors of pictures (B, D), of concepts (C, D), thresholds (C,)); no vector has length 1."""
    image_embed, concept_embed = torch.randn(5, 6, generator=g), torch.randn(2 + i % 3, 6, generator=g)
    lengths = 0.3 + 3 * torch.rand(5, 1, generator=g)
    return lengths * image_embed, concept_embed, torch.rand(2 + i % 3, generator=g)


def margin(image_embed, concept_embed, thresholds):
    """How far the worst concept lies above its threshold; above 0 is flagged."""
    cosines = F.normalize(image_embed, dim=-1) @ F.normalize(concept_embed, dim=-1).T  # (B, C)
    return (cosines - thresholds).amax(dim=1)


CHECKER = Exercise(
    reference=margin,
    cases=checker_case,
    mistakes=(
        (
            "the vectors keep their lengths: a cosine compares directions, so divide each by its length.",
            lambda x, c, t: (x @ c.T - t).amax(dim=1),
        ),
        (
            "the pictures' vectors keep their lengths.",
            lambda x, c, t: (x @ F.normalize(c, dim=-1).T - t).amax(dim=1),
        ),
        (
            "the concepts' vectors keep their lengths.",
            lambda x, c, t: (F.normalize(x, dim=-1) @ c.T - t).amax(dim=1),
        ),
        (
            "the mean over the concepts: one concept above its threshold is enough.",
            lambda x, c, t: (F.cosine_similarity(x[:, None], c[None], dim=-1) - t).mean(dim=1),
        ),
        (
            "the smallest margin: then all concepts must be there at once; one is enough.",
            lambda x, c, t: (F.cosine_similarity(x[:, None], c[None], dim=-1) - t).amin(dim=1),
        ),
        (
            "the thresholds are taken away after the largest cosine is found, but each concept has its own.",
            lambda x, c, t: F.cosine_similarity(x[:, None], c[None], dim=-1).amax(dim=1) - t.amax(),
        ),
        (
            "right up to sign: above 0 is flagged.",
            lambda x, c, t: -margin(x, c, t),
        ),
    ),
    hints=(
        "Cosines first, each picture with each concept; then each concept's own threshold; then the worst concept.",
        "Divide all vectors by their lengths, multiply, subtract the thresholds, and take the largest over concepts.",
        "(F.normalize(image_embed, dim=-1) @ F.normalize(concept_embed, dim=-1).T - thresholds).amax(dim=1).",
    ),
)


EXERCISES = {
    "13-seeds": SEEDS,
    "13-loop": LOOP,
    "13-options": OPTIONS,
    "13-strength": STRENGTH,
    "13-batch": BATCH,
    "13-checker": CHECKER,
}
