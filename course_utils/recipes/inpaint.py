"""inpaint: fills a hole in a picture with what the prompt says. Stable Diffusion's U-Net with five channels more."""

from functools import lru_cache

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.checkpoints import scaling_factor
from course_utils.datasets.latent_cache import cached, digest, encode_all
from course_utils.decoder.vae import VAE
from course_utils.generator.conditions import shrink_mask
from course_utils.recipes import stable_diffusion as text
from course_utils.recipes.latent_base import checkpoint_digest, sample_latents, text_loss
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import CONDITIONS, make_unet
from course_utils.training import Recipe

WHOLE = 0.25  # of all masks hide the whole picture, as when there is nothing to keep


def model():
    """Return Stable Diffusion's trained U-Net with five silent channels more: the mask, and the latent of the rest."""
    return widen(CONDITIONS["inpaint"](), checkpoints.load("stable-diffusion", make_unet()))


def widen(unet, trained):
    """Fill a U-Net of more input channels with a trained one's weights; what reads the further channels is zero."""
    state, wide = trained.state_dict(), torch.zeros_like(unet.conv_in.weight)
    wide[:, :4] = state["conv_in.weight"]
    unet.load_state_dict({**state, "conv_in.weight": wide})
    return unet


def random_masks(n, size, rng):
    """Return masks (n, 1, size, size) of zeros and ones: a rectangle each, a quarter to all of the picture a side."""
    masks = np.zeros((n, 1, size, size), np.float32)
    for mask in masks:
        height, width = (size, size) if rng.random() < WHOLE else rng.integers(size // 4, size + 1, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        mask[:, top : top + height, left : left + width] = 1
    return masks


def hide(images, masks):
    """Return images (N, H, W, 3) as bytes, grey, 0 in [-1, 1], where masks (N, 1, H, W) are 1."""
    hole = masks.transpose(0, 2, 3, 1)
    return (images * (1 - hole) + 127.5 * hole + 0.5).astype(np.uint8)


@lru_cache(maxsize=1)
def examples():
    """Return the latents of what the masks leave, {"mean", "std", "mask"}: one mask for each of the text's examples."""
    composed = text.compose()
    masks = random_masks(len(composed.images), SIZE, np.random.default_rng(9))

    def make():
        mean, std = encode_all(checkpoints.load("vae", VAE()), hide(composed.images, masks))
        return {"mean": mean, "std": std, "mask": shrink_mask(torch.from_numpy(masks), mean.shape[-2:])}

    return cached("inpaint", digest(composed.images, masks, checkpoint_digest("vae")), make)


def batch(generator, n):
    """Draw n examples as the text's recipe does, with "cond_channels" (n, 5, 16, 16): mask, and latent of the rest."""
    index = torch.randint(text.EXAMPLES, (n,), generator=generator)
    kept = examples()
    cond_channels = torch.cat([kept["mask"][index], scaling_factor() * sample_latents(kept, index, generator)], dim=1)
    return {**text.batch(generator, n, index), "cond_channels": cond_channels}


RECIPE = Recipe(
    name="inpaint",
    summary="fills a hole in a picture with what the prompt says: Stable Diffusion's U-Net with 9 channels",
    model=model,
    batch=batch,
    loss=text_loss,
    batch_size=32,
    lr=1e-3,
    weight_decay=0.01,
    time_share=1.0,
    requires=("vae", "text-pixel", "stable-diffusion"),
)
