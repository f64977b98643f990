"""outline: colours a line drawing as the prompt says. A small U-Net that sees the lines beside the noisy latent."""

from functools import lru_cache

import torch
import torch.nn.functional as F

from course_utils.data import to_tensor
from course_utils.datasets.latent_cache import cached, digest
from course_utils.generator.conditions import outline
from course_utils.recipes import stable_diffusion as text
from course_utils.recipes.latent_base import text_loss
from course_utils.systems.stable_diffusion import CONDITIONS
from course_utils.training import Recipe

FOLD = 4  # 64x64 lines become 16 channels of 16x16: as many places as the latent, and no line is lost


def model():
    """Return the untrained U-Net: 4 channels of latent, 16 of lines."""
    return CONDITIONS["outline"]()


def find_lines(composed):
    """Return the outlines (N, 1, 64, 64), 0 or 1 as uint8, of N composed examples."""
    images, alpha = composed.images, torch.from_numpy(composed.masks)[:, None]
    found = [outline(to_tensor(images[i : i + 64]), alpha[i : i + 64] / 255) for i in range(0, len(images), 64)]
    return torch.cat(found).byte()


@lru_cache(maxsize=1)
def lines():
    """Return the outlines (N, 1, 64, 64) of the text's examples."""
    composed = text.compose()
    source = digest(composed.images, composed.masks)
    return cached("outline", source, lambda: {"lines": find_lines(composed)})["lines"]


def batch(generator, n):
    """Draw n examples as the text's recipe does, with "cond_channels" (n, 16, 16, 16): the folded outline."""
    index = torch.randint(text.EXAMPLES, (n,), generator=generator)
    return {**text.batch(generator, n, index), "cond_channels": F.pixel_unshuffle(lines()[index].float(), FOLD)}


RECIPE = Recipe(
    name="outline",
    summary="colours a 64x64 line drawing as an English or a Chinese prompt says",
    model=model,
    batch=batch,
    loss=text_loss,
    batch_size=32,
    lr=1e-3,
    weight_decay=0.01,
    time_share=1.0,
    requires=("vae", "text-pixel"),
)
