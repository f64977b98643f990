"""outline-clip: colours a line drawing as the prompt says. A small U-Net sees the lines beside the noisy latent."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.data import data_sums
from course_utils.datasets.latent_cache import cached, digest
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.recipes.outline import FOLD, find_lines
from course_utils.systems.stable_diffusion_clip import CONDITIONS, VAE_NAME
from course_utils.training import Recipe


def model():
    """Return the untrained U-Net: 4 channels of latent, 16 of lines."""
    return CONDITIONS["outline-clip"]()


def packed_lines(composed):
    """Return the outlines of a chunk of examples, eight pixels a byte: uint8 (CHUNK, 1, 64, 8)."""
    return torch.from_numpy(np.packbits(find_lines(composed).numpy(), axis=-1))


@lru_cache(maxsize=1)
def lines():
    """Return the outlines of all the text's examples, uint8 (N, 1, 64, 8)."""
    first = text.compose(0)

    def make():
        return {"lines": torch.cat([packed_lines(text.compose(k) if k else first) for k in range(text.CHUNKS)])}

    return cached("outline-clip", digest(first.images, first.masks, text.CHUNKS, data_sums()), make)["lines"]


def batch(generator, n):
    """Draw n examples as the text's recipe does, with "cond_channels" (n, 16, 16, 16): the folded outline."""
    index = text.draw_index(n, generator)
    drawn = torch.from_numpy(np.unpackbits(lines()[index].numpy(), axis=-1)).float()  # (n, 1, 64, 64)
    return {**text.batch(generator, n, index=index), "cond_channels": F.pixel_unshuffle(drawn, FOLD)}


RECIPE = Recipe(
    name="outline-clip",
    summary="colours a 64x64 line drawing of any of 1,015 things as an English or a Chinese prompt says",
    model=model,
    batch=batch,
    loss=text.loss,
    batch_size=64,
    lr=1e-3,
    warmup=200,
    weight_decay=0.01,
    decay=0.33,
    time_share=2.0,
    requires=(VAE_NAME, "clip"),
)
