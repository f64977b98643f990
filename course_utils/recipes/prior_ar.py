"""prior-ar: from a caption to the CLIP vector of a picture, code by code. A generator of notebook 08."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from course_utils.generator.prior_ar import ARPrior, ar_loss, pca
from course_utils.recipes.prior_base import clip, composer, encode_chunk, write_caption
from course_utils.recipes.prior_diffusion import batch
from course_utils.systems.clip import embed_texts
from course_utils.systems.dalle2 import encode_text, make_ar_prior
from course_utils.training import Recipe


def model() -> ARPrior:
    """The untrained network; its directions and buckets are measured on the first examples."""
    shown, rng = encode_chunk("vectors", composer(), 0), np.random.default_rng(0)
    captions = [write_caption(shown, i, composer(), rng, p_drop=0.0) for i in range(len(shown["index"]))]
    image_embed = shown["image_embed"].float()
    text_embed = embed_texts(clip(torch.device("cpu")), captions)
    return make_ar_prior(len(pca(image_embed)[1])).fit(image_embed, text_embed)


def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """The mean surprise of the codes, in nats: ln 128 = 4.85 for a network that knows nothing."""
    with torch.no_grad():
        text = encode_text(clip(batch["ids"].device), batch["ids"])
    return ar_loss(network, batch["image_embed"], text.context, text.text_embed)


RECIPE = Recipe(
    name="prior-ar",
    summary="DALL·E 2's other prior: writes the CLIP vector of a picture number by number",
    model=model,
    batch=batch,
    loss=loss,
    measure=lambda network: {"num_dims": network.num_codes - 1},
    batch_size=128,
    lr=1e-3,
    weight_decay=0.01,
    warmup=100,
    time_share=1.0,
    requires=("clip",),
)
