"""What is measured of a network while it learns, for the learning curve in its card."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from course_utils import checkpoints
from course_utils.data import to_tensor
from course_utils.decoder.vae import VAE
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts
from course_utils.evaluation.report_clip import PAIRS, held_out_examples, retrieval, zero_shot
from course_utils.evaluation.report_prompts import targets
from course_utils.generator.latent_unet import LatentUNet
from course_utils.systems.clip import CLIP, embed_images
from course_utils.systems.stable_diffusion import StableDiffusion
from course_utils.systems.stable_diffusion_clip import VAE_NAME, open_text_encoder
from course_utils.systems.stage import System

DRAWN, STEPS, GUIDANCE = 24, 12, 3.0  # prompts of each form, and how they are drawn: about 15 seconds of two cores


def watch_clip(clip: CLIP) -> dict[str, float]:
    """Return how CLIP names PAIRS held-out pictures and finds their captions, in English."""
    pictures, composer = held_out_examples(PAIRS)
    image_embed = embed_images(clip, to_tensor(pictures.images))
    found = zero_shot(clip, image_embed, pictures.attributes["concept"], "en")
    found |= retrieval(clip, image_embed, pictures, composer, "en")
    return {key: float(share) for key, share in found.items()}


@lru_cache(maxsize=1)
def frozen_parts(device: torch.device) -> tuple:
    """Return what stands before and after Stable Diffusion's U-Net: CLIP's text tower, the decoder and its scale."""
    vae = checkpoints.load(VAE_NAME, VAE().to(memory_format=torch.channels_last), device)
    return open_text_encoder(device), vae, checkpoints.scaling_factor(name=VAE_NAME)


def watch_stable_diffusion(unet: LatentUNet) -> dict[str, float]:
    """Return how many of DRAWN full and DRAWN bare prompts show their thing, in English, and the full ones' scene."""
    device = unet.conv_in.weight.device
    encoder, vae, factor = frozen_parts(device)
    system = System(StableDiffusion(encoder, unet, vae, factor).stages(), device, STEPS, GUIDANCE)
    full, bare = fixed_prompts(n=DRAWN), bare_prompts(n=DRAWN)
    x = to_tensor(system.draw([prompt.text for prompt in [*full, *bare]]))
    shares, named = (alignment(load_evaluator(), *part) for part in zip(x.split(DRAWN), map(targets, (full, bare))))
    return {
        "concept": float(shares["concept"]),
        "background": float(shares["background"]),
        "concept, names alone": float(named["concept"]),
    }


WATCHES: dict[str, Callable] = {  # checkpoint -> network in training to figures: seconds, no more
    "clip": watch_clip,
    "stable-diffusion-clip": watch_stable_diffusion,
}
