"""inpaint-clip: fills a hole in a picture with what the prompt says. The wide U-Net with five channels more."""

from functools import lru_cache

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.checkpoints import scaling_factor
from course_utils.generator.conditions import shrink_mask
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.recipes.inpaint import hide, random_masks, widen
from course_utils.recipes.latent_base import encode_in_chunks
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import LATENT
from course_utils.systems.stable_diffusion_clip import CONDITIONS, NAME, VAE_NAME, make_unet
from course_utils.training import Recipe


def model():
    """Return Stable Diffusion's trained U-Net with five silent channels more: the mask, and the latent of the rest."""
    return widen(CONDITIONS["inpaint-clip"](), checkpoints.load(NAME, make_unet()))


def masks(chunk):
    """Return the masks (CHUNK, 1, 64, 64) of a chunk of examples, always the same."""
    return random_masks(text.CHUNK, SIZE, np.random.default_rng(chunk))


def compose(chunk):
    """Return a chunk of the text's examples, grey in the holes."""
    composed = text.compose(chunk)
    return composed._replace(images=hide(composed.images, masks(chunk)))


@lru_cache(maxsize=1)
def examples():
    """Return the latents of what the masks leave, {"z", "mask"}: one mask for each of the text's examples."""
    small = [shrink_mask(torch.from_numpy(masks(chunk)), LATENT[1:]) for chunk in range(text.CHUNKS)]
    return {"z": encode_in_chunks(compose, text.CHUNKS, VAE_NAME, "inpaint-clip")["z"], "mask": torch.cat(small)}


def batch(generator, n):
    """Draw n examples as the text's recipe does, with "cond_channels" (n, 5, 16, 16): mask, and latent of the rest."""
    kept, index = examples(), text.draw_index(n, generator)
    z = scaling_factor(name=VAE_NAME) * kept["z"][index].float()
    return {**text.batch(generator, n, index=index), "cond_channels": torch.cat([kept["mask"][index], z], dim=1)}


RECIPE = Recipe(
    name="inpaint-clip",
    summary="fills a hole in a picture with what the prompt says: the wide U-Net with 9 channels",
    model=model,
    batch=batch,
    loss=text.loss,
    batch_size=64,
    lr=4e-4,  # half of the text's: it begins trained
    warmup=200,
    weight_decay=0.01,
    decay=0.33,
    time_share=2.0,
    requires=(VAE_NAME, "clip", NAME),
)
