"""text-pixel: draws 32x32 emoji from an English or a Chinese prompt. The network of notebook 04."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data import FIRST_STYLES, Emoji, load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.datasets.concepts import concepts
from course_utils.generator.guidance import drop_caption
from course_utils.generator.objectives import sample_timesteps, target
from course_utils.generator.schedules import add_noise
from course_utils.systems.text_pixel import PREDICTION, SCHEDULE, SIZE, TextPixel, tokenize
from course_utils.text_encoder.tokenizer import PAD_ID
from course_utils.training import Recipe

P_DROP = 0.1  # captions hidden in training, so that guidance has something to move away from
TIMESTEP_POWER = 0.4  # t = T u^0.4: 59 % of the steps above 700, where the noise hides all and only the text tells
TRANSLATION = 0.02  # weight of the loss that brings two languages together


@lru_cache(maxsize=1)
def emoji() -> Emoji:
    """Return the training pictures: 64 things in three styles, as many as two cores can learn to draw in two hours."""
    wanted = concepts("text-pixel")
    return load_emoji(SIZE, FIRST_STYLES).select(lambda meta: meta["concept"] in wanted)


@lru_cache(maxsize=1)
def composer() -> Composer:
    """Return the source of examples. Subjects fill the frame: with so few pixels and steps, nothing may wobble."""
    return Composer(emoji(), p_color=0.4, p_background=0.4, min_scale=1.0, p_omit=0.05, p_tags=0.3, natural=0)


def batch(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Compose n pictures, each with a caption in one language ("ids") and in the other ("translation")."""
    seed = int(torch.randint(2**31, (), generator=generator))
    source, rng = composer(), np.random.default_rng(seed)
    examples = source.compose(n, seed)
    wanted = examples.attributes
    texts = [examples.captions, []]
    for index, color, background, language in zip(
        *(wanted[k] for k in ("index", "color", "background", "language")), strict=True
    ):
        other = LANGUAGES[1 - LANGUAGES.index(language)]
        texts[1].append(caption(source.emoji.meta[index], color, background, other, rng, p_omit=0.1, natural=0))
    ids, translation = (tokenize(t)[0] for t in texts)
    return {"x0": to_tensor(examples.images), "ids": ids, "translation": translation}


def translation_loss(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """Let each caption's vector (B, D) be nearest to that of its translation among the batch's, both ways.

    CLIP's contrastive loss between two languages instead of text and picture; notebook 07 takes it apart.
    """
    logits = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature  # (B, B)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def loss(model: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """The error of the pictures plus, with a small weight, that of the translations.

    `diffusion_loss` in full, for the network gives two vectors beside its prediction.
    """
    x0, ids = batch["x0"], batch["ids"]
    mask = drop_caption(ids != PAD_ID, P_DROP, generator)
    t = sample_timesteps(len(x0), SCHEDULE.num_steps, TIMESTEP_POWER, generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    xt = add_noise(x0, eps, t, SCHEDULE)
    pred, text, translation = model(xt, t, ids, mask, batch["translation"])
    error = F.mse_loss(pred.float(), target(PREDICTION, x0, eps, t, SCHEDULE))
    return error + TRANSLATION * translation_loss(text, translation)


RECIPE = Recipe(
    name="text-pixel",
    summary="draws 64 things at 32x32, in any colour, style and place, from English or Chinese prompts",
    model=TextPixel,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=1e-3,
    weight_decay=0.01,
    time_share=4.0,
)
