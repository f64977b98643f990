"""What the recipes of DALL·E 2 share: pictures as CLIP vectors, made once and kept, and captions that leave much out.

Composer ──► pictures ──► CLIP (and VAE) ──► vectors (and latents), with what each picture shows
                             (kept on disk)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import BACKGROUNDS, LANGUAGES, Composer, caption
from course_utils.datasets.latent_cache import cached, digest, encode_all
from course_utils.decoder.vae import VAE
from course_utils.recipes.latent_base import COLORS, attribute_numbers, checkpoint_digest
from course_utils.systems.clip import CLIP, SIZE, embed_images, open_clip
from course_utils.systems.dalle2 import VAE_NAME

CHUNK = 8_192  # pictures composed at a time: 100 MB
CHUNKS = 32  # that the priors learn from: about 52 compositions of each of 5,054 pictures
P_OMIT = 0.6  # chance that a caption leaves out style, colour and background, each: a fifth says the name alone
P_DROP = 0.1  # captions left empty, so that guidance has something to move away from


@lru_cache(maxsize=1)
def clip(device: torch.device) -> CLIP:
    """The frozen CLIP."""
    return open_clip(device)


@lru_cache(maxsize=1)
def composer() -> Composer:
    """The source of the priors' examples: all concepts in all flat styles, filling the frame as the decoder's do."""
    return Composer(load_emoji(SIZE), p_color=0.5, p_background=0.5, min_scale=1.0)


def encode_chunk(name: str, source: Composer, seed: int, also: str | None = None) -> dict[str, torch.Tensor]:
    """CHUNK examples of a seed, kept under a name: "image_embed" (N, D), and what each shows, as `attribute_numbers`.

    also: "latent" adds {"mean", "std"} (N, 4, 16, 16), "pixel" the pictures themselves, uint8 (N, 64, 64, 3).
    """
    parents = [checkpoint_digest(parent) for parent in ("clip", *([VAE_NAME] if also == "latent" else []))]
    beginning = source.compose(16, seed).images  # the first of the chunk: they change when the composer does

    def make() -> dict[str, torch.Tensor]:
        composed = source.compose(CHUNK, seed)
        tensors = {"image_embed": embed_images(clip(torch.device("cpu")), to_tensor(composed.images)).half()}
        tensors |= attribute_numbers(composed.attributes)
        if also == "latent":
            tensors["mean"], tensors["std"] = encode_all(checkpoints.load(VAE_NAME, VAE()), composed.images)
        return tensors | ({"images": torch.from_numpy(composed.images)} if also == "pixel" else {})

    return cached(name, digest(beginning, source.emoji.rgba, CHUNK, also, *parents), make)


@lru_cache(maxsize=1)
def examples() -> dict[str, torch.Tensor]:
    """The priors' examples, CHUNKS * CHUNK of them."""
    parts = [encode_chunk("vectors", composer(), seed) for seed in range(CHUNKS)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def write_caption(
    shown: dict[str, torch.Tensor],
    i: int,
    source: Composer,
    rng: np.random.Generator,
    p_omit: float = P_OMIT,
    p_drop: float = P_DROP,
) -> str:
    """A caption of example i in either language, every time another, that leaves out what it may; "" with p_drop."""
    if rng.random() < p_drop:
        return ""
    index, color, background = (int(shown[key][i]) for key in ("index", "color", "background"))
    meta = source.emoji.meta[index]
    parts = meta["style"], COLORS[color], BACKGROUNDS[background]
    style, color, background = (None if rng.random() < p_omit else part for part in parts)
    language = LANGUAGES[rng.integers(len(LANGUAGES))]
    return caption(meta | {"style": style}, color, background, language, rng, p_omit=0.0)
