"""evaluator: names concept, style, colour and background of a picture. It measures every generator of the course."""

import re
from functools import lru_cache

import torch
import torch.nn.functional as F

from course_utils.data import STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.evaluation.evaluator import ATTRIBUTES, SIDE, Evaluator, class_numbers
from course_utils.layers import resize
from course_utils.systems.clip import open_clip
from course_utils.training import Recipe

SIZES = (64, 64, 64, 64, 48, 32, 32, 24)  # pixels a side a picture is shrunk to: what generators draw, and a few more
WEIGHTS = {"concept": 1.0, "style": 1.5, "color": 0.5, "background": 0.5}
ONE_SIDED = re.compile("o.clock|thirty|moon|quarter|left|right|arrow")  # concepts that a mirror makes another of


def model():
    """Return the network before training, new but for CLIP's trunk: pictures (B, 3, H, W) in, EvaluatorOutput out."""
    network = Evaluator()
    network.load_state_dict(open_clip().vision_model.state_dict(), strict=False)
    return network.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


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


def random_patch(labelled, generator):
    """Paste a patch of the next picture into half of the pictures x (n, 3, S, S), which then show both, by area.

    Adds "share" (n,), the patch's part of the area, and its labels "concept_patch", ... (n,). Yun et al. 2019, CutMix.
    """
    x = labelled["x"]
    n, side = len(x), x.shape[-1]
    area, row, column, lot = torch.rand(4, n, generator=generator)
    half = area.sqrt() / 2 * (lot < 0.5)  # of the patch's side: nothing where the lot is high
    place = (torch.arange(side) + 0.5) / side  # (S,)
    inside = [(place - center[:, None]).abs() < half[:, None] for center in (row, column)]  # two (n, S)
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (n, 1, S, S)
    patches = {f"{a}_patch": labelled[a].roll(1) for a in ATTRIBUTES}
    share = mask.float().mean(dim=(1, 2, 3))
    return labelled | patches | {"x": torch.where(mask, x.roll(1, dims=0), x), "share": share}


def batch(generator, n):
    """Compose n pictures with their four labels: mirrored, bent, patched, and some blurred as small generators draw."""
    pictures = composer().compose(n, seed=int(torch.randint(2**31, (1,), generator=generator)))
    x = random_affine(to_tensor(pictures.images), generator)
    x = random_mirror(x, pictures.attributes["concept"], generator)
    labelled = {"x": x} | {a: class_numbers(a, pictures.attributes[a]) for a in ATTRIBUTES}
    size = torch.tensor(SIZES)[torch.randint(len(SIZES), (n,), generator=generator)]
    for side in set(SIZES) - {SIDE}:
        if (few := size == side).any():
            x[few] = resize(resize(x[few], side), SIDE)
    return random_patch(labelled, generator)


def loss(network, batch, generator):
    """Return the cross entropies of the four answers; concept and style, by far the hardest, count most."""
    answers, total = network(batch["x"]), 0.0
    for attribute, weight in WEIGHTS.items():
        smooth = 0.1 if attribute == "concept" else 0.0
        for key, share in ((attribute, 1 - batch["share"]), (f"{attribute}_patch", batch["share"])):
            logits = getattr(answers, attribute)
            each = F.cross_entropy(logits, batch[key], reduction="none", label_smoothing=smooth)  # 0 where not stated
            total = total + weight * (share * each).mean()
    return total


RECIPE = Recipe(
    name="evaluator",
    summary="a small classifier of concept, style, colour and background that measures the generators",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=6e-4,
    faster=dict.fromkeys(ATTRIBUTES, 3.0),  # the heads are new
    weight_decay=0.1,  # decay: to name concepts in a style they were not seen in
    warmup=100,
    decay=0.5,
    requires=("clip",),
)
