"""evaluator: names concept, style, colour and background of a picture. It measures every generator of the course."""

import re
from functools import lru_cache

import torch
import torch.nn.functional as F

from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.evaluation.evaluator import ATTRIBUTES, SIDE, STYLES, Evaluator, class_numbers
from course_utils.layers import resize
from course_utils.training import Recipe

SIZES = (64, 64, 64, 64, 48, 32, 32, 24)  # pixels a side a picture is shrunk to: what generators draw, and a few more
ONE_SIDED = re.compile("o.clock|thirty|moon|quarter|left|right|arrow")  # concepts that a mirror makes another of


def model():
    """Return the untrained network: pictures (B, 3, H, W) in, EvaluatorOutput out."""
    return Evaluator().to(memory_format=torch.channels_last)  # this layout is faster on CPUs


@lru_cache(maxsize=1)
def composer():
    """What composes the training pictures of its eight styles, at 64 pixels a side."""
    return Composer(load_emoji(SIDE, styles=STYLES), languages=("en",), p_background=0.7, natural=0)


def random_affine(x, generator):
    """Turn, stretch and slant half of the pictures (n, 3, S, S): exact pixels tell nothing, yet some stay sharp."""
    turn, wide, high, slant, lot = torch.rand(5, len(x), generator=generator) * 2 - 1  # in [-1, 1]
    turn, wide, high, slant = 0.21 * turn, 1 + 0.12 * wide, 1 + 0.12 * high, 0.12 * slant
    rows = (turn.cos() * wide, slant - turn.sin(), 0 * turn, slant + turn.sin(), turn.cos() * high, 0 * turn)
    grid = F.affine_grid(torch.stack(rows, dim=-1).view(-1, 2, 3), x.shape, False)
    return torch.where(lot[:, None, None, None] > 0, F.grid_sample(x, grid, "bilinear", "reflection", False), x)


def random_mirror(x, concepts, generator):
    """Mirror half of the pictures (n, 3, S, S), but for concepts (n names) that have a left and a right."""
    fits = torch.tensor([not ONE_SIDED.search(concept) for concept in concepts])
    mirrored = fits & (torch.rand(len(x), generator=generator) < 0.5)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def batch(generator, n):
    """Compose n pictures with their four labels, mirror and bend half, and blur some as small generators draw."""
    pictures = composer().compose(n, seed=int(torch.randint(2**31, (1,), generator=generator)))
    x = random_affine(to_tensor(pictures.images), generator)
    x = random_mirror(x, pictures.attributes["concept"], generator)
    size = torch.tensor(SIZES)[torch.randint(len(SIZES), (n,), generator=generator)]
    for side in set(SIZES) - {SIDE}:
        if (few := size == side).any():
            x[few] = resize(resize(x[few], side), SIDE)
    return {"x": x} | {a: class_numbers(a, pictures.attributes[a]) for a in ATTRIBUTES}


def loss(network, batch, generator):
    """Return the cross entropies of the four answers; concept and style, by far the hardest, count most."""
    answers = network(batch["x"])
    concept = F.cross_entropy(answers.concept, batch["concept"], label_smoothing=0.1)
    style = F.cross_entropy(answers.style, batch["style"])
    easy = [F.cross_entropy(getattr(answers, a), batch[a], reduction="sum") for a in ("color", "background")]
    return concept + 1.5 * style + 0.5 * sum(easy) / len(batch["x"])  # a sum, as perhaps no caption states a colour


RECIPE = Recipe(
    name="evaluator",
    summary="a small classifier of concept, style, colour and background that measures the generators",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=1.5e-3,
    weight_decay=0.05,  # decay: to name concepts in a style they were not seen in
)
