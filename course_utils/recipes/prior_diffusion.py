"""prior-diffusion: from a caption to the CLIP vector of a picture, by diffusion. A generator of notebook 08."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from course_utils.generator.objectives import diffusion_loss
from course_utils.recipes.prior_base import clip, composer, examples, write_caption
from course_utils.systems.clip import EMBED_DIM
from course_utils.systems.dalle2 import SCHEDULE, cut_padding, encode_text, make_prior
from course_utils.systems.stable_diffusion import tokenize
from course_utils.training import Recipe


def batch(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Draw n examples: vectors "image_embed" (n, D) of unit length, tokens "ids" (n, 32) of their captions."""
    shown = examples()
    index = torch.randint(len(shown["index"]), (n,), generator=generator)
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    ids = tokenize([write_caption(shown, i, composer(), rng) for i in index.tolist()])
    return {"image_embed": shown["image_embed"][index].float(), "ids": ids}


def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """The error of the predicted vector, times sqrt(D): 1 for a network that answers nothing."""
    with torch.no_grad():
        text = cut_padding(encode_text(clip(batch["ids"].device), batch["ids"]))
    x0, conditions = batch["image_embed"] * EMBED_DIM**0.5, {"context": text.context, "context_mask": text.mask}
    return diffusion_loss(network, x0, SCHEDULE, "x0", generator, text_embed=text.text_embed, **conditions)


RECIPE = Recipe(
    name="prior-diffusion",
    summary="DALL·E 2's prior: makes the CLIP vector of a picture from a caption, by diffusion",
    model=make_prior,
    batch=batch,
    loss=loss,
    batch_size=256,
    lr=1e-3,
    weight_decay=0.01,
    warmup=100,
    time_share=1.0,
    requires=("clip",),
)
