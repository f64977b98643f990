"""unclip-decoder: draws 64x64 pictures of CLIP vectors, beside a caption or without. The decoder of notebook 08."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import torch
from torch import nn

from course_utils.checkpoints import scaling_factor
from course_utils.data import Emoji, load_emoji
from course_utils.datasets.compose import Composer
from course_utils.datasets.concepts import SHOWN, concepts
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.recipes.latent_base import TIMESTEP_POWER, sample_latents
from course_utils.recipes.prior_base import clip, encode_chunk, write_caption
from course_utils.recipes.vae import SIZE
from course_utils.systems.dalle2 import PREDICTIONS, SCHEDULE, VAE_NAME, cut_padding, encode_text, make_decoder
from course_utils.systems.stable_diffusion import tokenize
from course_utils.training import Recipe

CHUNKS = 3  # of 8,192 pictures
P_OMIT = 0.35  # chance that a caption leaves out style, colour and background, each
P_DROP_TEXT, P_DROP_IMAGE = 0.5, 0.1  # hidden captions and image vectors: Ramesh et al. 2022, section 2.1


@lru_cache(maxsize=1)
def emoji() -> Emoji:
    """The training pictures: the things that it draws, in every flat style, as the priors' vectors may have any."""
    wanted = concepts("dalle2")
    pictures = load_emoji(SIZE, SHOWN["dalle2"].styles)
    return pictures if wanted is None else pictures.select(lambda meta: meta["concept"] in wanted)


@lru_cache(maxsize=1)
def composer() -> Composer:
    """The source of the examples: subjects fill the frame, on white or on any other background."""
    return Composer(emoji(), p_color=0.4, p_background=0.5, min_scale=1.0)


@lru_cache(maxsize=1)
def examples(space: str) -> dict[str, torch.Tensor]:
    """The examples, made once: vectors, what each shows, and latents or pictures."""
    parts = [encode_chunk(f"unclip-{space}", composer(), seed, also=space) for seed in range(CHUNKS)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def batch(generator: torch.Generator, n: int, space: str = "latent") -> dict[str, torch.Tensor]:
    """Draw n examples: what to draw "x0", vectors "image_embed" (n, D), tokens "ids", and which are "dropped"."""
    shown = examples(space)
    index = torch.randint(len(shown["index"]), (n,), generator=generator)
    if space == "latent":
        x0 = scaling_factor(name=VAE_NAME) * sample_latents(shown, index, generator)
    else:
        x0 = shown["images"][index].permute(0, 3, 1, 2).float() / 127.5 - 1
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    captions = [write_caption(shown, i, composer(), rng, P_OMIT, P_DROP_TEXT) for i in index.tolist()]
    dropped = torch.rand(n, generator=generator) < P_DROP_IMAGE
    image_embed = shown["image_embed"][index].float()
    return {"x0": x0, "image_embed": image_embed, "ids": tokenize(captions), "dropped": dropped}


def loss(
    network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator, space: str = "latent"
) -> torch.Tensor:
    """The error of the prediction on noisy latents or pictures, given image vectors and captions."""
    with torch.no_grad():
        text = cut_padding(encode_text(clip(batch["ids"].device), batch["ids"]))
    conditions = {"context": text.context, "context_mask": text.mask, "text_embed": text.text_embed}
    conditions |= {"image_embed": batch["image_embed"], "dropped": batch["dropped"]}
    t = sample_timesteps(len(batch["x0"]), SCHEDULE.num_steps, TIMESTEP_POWER, generator)
    return diffusion_loss(network, batch["x0"], SCHEDULE, PREDICTIONS[space], generator, t=t, **conditions)


def recipe(space: str = "latent") -> Recipe:
    """The recipe of a decoder that draws latents, or pixels as the paper's does."""
    return Recipe(
        name="unclip-decoder",
        summary="DALL·E 2's decoder: draws the picture of a CLIP vector at 64x64, beside a prompt or without",
        model=partial(make_decoder, space),
        batch=partial(batch, space=space),
        loss=partial(loss, space=space),
        measure=lambda network: {"space": space},
        batch_size=32,
        lr=1e-3,
        weight_decay=0.01,
        time_share=4.0,
        requires=("clip", VAE_NAME) if space == "latent" else ("clip",),
    )


RECIPE = recipe()
