"""clip: words and pictures in one space. The two towers of notebook 07."""

from functools import lru_cache

import numpy as np
import torch

from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.recipes.evaluator import random_affine, random_mirror
from course_utils.systems.clip import SIZE, make_clip, tokenize
from course_utils.text_encoder.contrastive import contrastive_loss, embed_in_chunks
from course_utils.training import Recipe

BATCH_SIZE = 128  # each picture has 127 captions to be told from
CHUNK = 512  # pictures whose activations are held at a time
P_NAME = 0.4  # share of captions that say only what it is: colours and places alone would tell most pictures apart
P_OMIT = 0.35  # chance that another caption leaves out the style, and the background
ATTRIBUTES = ("concept", "style", "color", "background")


def model():
    """Return the untrained towers: pictures (B, 3, 64, 64) and token numbers (B, L) in, unit vectors out."""
    return make_clip().to(memory_format=torch.channels_last)  # this layout is faster on CPUs


@lru_cache(maxsize=1)
def composer():
    """Return the source of examples: all concepts in all flat styles, small and large."""
    return Composer(load_emoji(SIZE), p_color=0.5, p_background=0.5, min_scale=0.6)


def true_of(stated, shown):
    """Return (N, N) bool: is caption j true of picture i? stated, shown: dicts of N values an attribute.

    A caption is true where the picture shows all that it states; None states nothing.
    """
    fits = np.full((len(shown["concept"]), len(stated["concept"])), True)
    for attribute in ATTRIBUTES:
        fits &= [[says is None or says == shows for says in stated[attribute]] for shows in shown[attribute]]
    return torch.from_numpy(fits)


def random_erase(x, generator):
    """Paint a square over half of the pictures (n, 3, S, S): no single part of a drawing can be its name."""
    n, size = len(x), x.shape[-1]
    side = torch.randint(size // 5, size // 2, (n, 1), generator=generator)
    row, column = torch.randint(size, (2, n, 1), generator=generator)
    at = torch.arange(size)
    rows, columns = ((at - center).abs() <= side // 2 for center in (row, column))
    erased = rows[:, :, None] & columns[:, None, :] & (torch.rand(n, 1, 1, generator=generator) < 0.5)
    return torch.where(erased[:, None], torch.rand(n, 3, 1, 1, generator=generator) * 2 - 1, x)


def write_captions(shown, rng):
    """Return captions of examples, in either language, and what each states, as `shown` has it."""
    captions, stated = [], {attribute: [] for attribute in ATTRIBUTES}
    for index, concept, style, color, background in zip(shown["index"], *(shown[a] for a in ATTRIBUTES)):
        if rng.random() < P_NAME:
            style = color = background = None
        style, background = (None if rng.random() < P_OMIT else value for value in (style, background))
        meta, language = composer().emoji.meta[index] | {"style": style}, LANGUAGES[rng.integers(2)]
        captions.append(caption(meta, color, background, language, rng, p_omit=0.0))
        for attribute, value in zip(ATTRIBUTES, (concept, style, color, background)):
            stated[attribute].append(value)
    return captions, stated


def batch(generator, n):
    """Compose n pictures "x", bent and partly painted over; "ids": tokens of a caption each; "also": as `true_of`."""
    seed = int(torch.randint(2**31, (), generator=generator))
    pictures = composer().compose(n, seed)
    shown = pictures.attributes
    captions, stated = write_captions(shown, np.random.default_rng(seed))
    x = random_affine(to_tensor(pictures.images), generator)
    x = random_erase(random_mirror(x, shown["concept"], generator), generator)
    return {"x": x, "ids": tokenize(captions)[0], "also": true_of(stated, shown)}


def loss(network, batch, generator):
    """Return the contrastive loss; what is true of another picture too is no negative."""
    text_embed = network.embed_text(batch["ids"])
    image_embed = embed_in_chunks(network.embed_image, batch["x"], CHUNK)
    return contrastive_loss(image_embed, text_embed, network.scale, batch["also"])


RECIPE = Recipe(
    name="clip",
    summary="brings words and pictures into one space, in English and Chinese",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=BATCH_SIZE,
    lr=2e-3,
    weight_decay=0.2,
    faster={"token_embedding": 5.0},  # most tokens are in few captions: without it the text tower hardly learns
    decay=0.8,  # the steps are noisy, and the weights settle slowly
    warmup=100,
    time_share=3.0,
)
