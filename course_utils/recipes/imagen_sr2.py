"""imagen-sr2: enlarges 64x64 pictures to 256x256, Imagen's last stage, on crops. The Efficient U-Net of notebook 09."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn

from course_utils.data import FLAT_STYLES, Emoji, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.super_resolution import enlarge, make_low, random_crops, sample_levels, to_residual
from course_utils.generator.objectives import diffusion_loss
from course_utils.layers import resize
from course_utils.systems.super_resolution import PREDICTION, SCHEDULE, SR2_SIDE, SR2_STD
from course_utils.systems.super_resolution import make_sr2 as model
from course_utils.training import Recipe

SMALL, CROP = 64, 64  # pixels a side: of what is enlarged, and of what is trained on
CROPS = 4  # from each composed picture: composing one of 256 pixels takes longer than cutting
EVERY = 5  # of each flat style, every fifth picture: edges and corners are alike in all
P_SOFT = 0.25  # share of pictures softened before they are shrunk, as what other systems draw is softer than real ones
SOFTEST = 40  # pixels a side that a softened picture still has, at least


@lru_cache(maxsize=1)
def emoji() -> Emoji:
    """Return the training pictures, 256 pixels a side: of all flat styles, and those in 3D that training may see."""
    flat = [load_emoji(SR2_SIDE, style) for style in FLAT_STYLES]
    parts = [part.select(np.arange(0, len(part), EVERY)) for part in flat] + [load_emoji(SR2_SIDE, "3d")]
    return Emoji(np.concatenate([part.rgba for part in parts]), sum((part.meta for part in parts), ()))


@lru_cache(maxsize=1)
def composer() -> Composer:
    """Return the source of pictures: few in other colours, which take long to paint and change no edge."""
    return Composer(emoji(), languages=("en",), p_color=0.1)


def soften(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pictures (B, 3, H, W), some of which lost their finest details."""
    soft = torch.rand(len(x), generator=generator) < P_SOFT
    sides = torch.randint(SOFTEST, SMALL, (len(x),), generator=generator)
    return torch.cat(
        [
            enlarge(resize(one, int(side)), x.shape[-1]) if is_soft else one
            for one, side, is_soft in zip(x.split(1), sides, soft)
        ]
    )


def batch(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Compose pictures and cut n squares: "x0" (n, 3, 64, 64), "low", what is shown of it, and "level", its noise.

    Of two squares the one with more to paint is taken: much of a picture is plain paper.
    """
    count = -(-n // CROPS)
    x = to_tensor(composer().compose(count, seed=int(torch.randint(2**31, (), generator=generator))).images)
    level = sample_levels(count, generator=generator)
    low = make_low(soften(x, generator), SMALL, level, generator)
    x, low, level = (each.repeat_interleave(2 * CROPS, dim=0) for each in (x, low, level))
    pairs = [crops.unflatten(0, (-1, 2)) for crops in random_crops([x, low], CROP, generator)]
    missing = (pairs[0] - pairs[1]).abs().mean(dim=(2, 3, 4))  # (n, 2)
    rows = torch.arange(len(missing))
    x0, low = (pair[rows, missing.argmax(dim=1)] for pair in pairs)
    return {"x0": x0[:n], "low": low[:n], "level": level[::2][:n]}


def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the error of the predicted velocity of the residual."""
    low, level = batch["low"], batch["level"]
    residual = to_residual(batch["x0"], low, level, SR2_STD)
    return diffusion_loss(network, residual, SCHEDULE, PREDICTION, generator, low=low, level=level)


RECIPE = Recipe(
    name="imagen-sr2",
    summary="enlarges 64x64 pictures to 256x256, whatever drew them",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=1e-3,
    time_share=3.0,
)
