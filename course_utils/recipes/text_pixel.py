"""text-pixel: draws 32x32 emoji from an English or a Chinese prompt. The network of notebook 04."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.datasets.concepts import concepts
from course_utils.generator.guidance import drop_caption
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.systems.text_pixel import PREDICTION, SCHEDULE, SIZE, TextPixel, tokenize
from course_utils.text_encoder.tokenizer import PAD_ID
from course_utils.training import Recipe

P_DROP = 0.1  # captions hidden in training, so that guidance has something to move away from
TIMESTEP_POWER = 0.4  # t = T u^0.4: 59 % of the steps above 700, where the noise hides all and only the text tells
TRANSLATION = 0.02  # weight of the loss that brings two languages together


@lru_cache(maxsize=1)
def emoji():
    """Return the training pictures: 64 things in three styles, as many as two cores can learn to draw in two hours."""
    wanted = concepts("text-pixel")
    return load_emoji(SIZE, FIRST_STYLES).select(lambda meta: meta["concept"] in wanted)


@lru_cache(maxsize=1)
def composer():
    """Return the source of examples. Subjects fill the frame: with so few pixels and steps, nothing may wobble."""
    return Composer(emoji(), p_color=0.4, p_background=0.4, min_scale=1.0, p_omit=0.05, p_tags=0.3, natural=0)


def batch(generator, n):
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


def translation_loss(first, second, temperature=0.07):
    """Let each caption's vector (B, D) be nearest to that of its translation among the batch's, both ways.

    CLIP's contrastive loss between two languages instead of text and picture; notebook 07 takes it apart.
    """
    logits = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature  # (B, B)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def loss(model, batch, generator):
    """Return the error of the pictures plus, with a small weight, that of the translations."""
    ids, vectors = batch["ids"], []
    mask = drop_caption(ids != PAD_ID, P_DROP, generator)

    def answer(xt, t):
        pred, *both = model(xt, t, ids, mask, batch["translation"])
        vectors.extend(both)
        return pred

    t = sample_timesteps(len(ids), SCHEDULE.num_steps, TIMESTEP_POWER, generator)
    error = diffusion_loss(answer, batch["x0"], SCHEDULE, PREDICTION, generator, t=t)
    return error + TRANSLATION * translation_loss(*vectors)


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
