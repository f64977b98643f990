"""stable-diffusion: draws 64x64 emoji from an English or a Chinese prompt. The generator of notebook 06."""

from functools import lru_cache

import numpy as np
import torch

from course_utils.checkpoints import scaling_factor
from course_utils.data import FIRST_STYLES, load_emoji
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.datasets.concepts import concepts
from course_utils.recipes.latent_base import encode_examples, sample_latents, text_loss
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import make_unet, tokenize
from course_utils.training import Recipe

EXAMPLES = 20_480  # composed once and kept as latents: about 50 of each picture
P_DROP = 0.1  # captions left empty in training, so that guidance has something to move away from


def model():
    """Return the untrained U-Net."""
    return make_unet()


@lru_cache(maxsize=1)
def emoji():
    """Return the training pictures: the 64 things of notebook 04 and as many others, in three styles."""
    wanted = concepts("stable-diffusion")
    return load_emoji(SIZE, FIRST_STYLES).select(lambda meta: meta["concept"] in wanted)


def composer():
    """Return the source of the examples: subjects fill the frame, on white or on any other background."""
    return Composer(emoji(), p_color=0.4, p_background=0.5, min_scale=1.0, p_omit=0.1, natural=0)


def compose():
    """Return the examples, always the same."""
    return composer().compose(EXAMPLES, seed=6)


@lru_cache(maxsize=1)
def examples():
    """Return the examples' latents, {"mean", "std"} (N, 4, 16, 16), and what each shows, a list of N dicts."""
    return encode_examples(compose(), "text")


def write_caption(row, rng):
    """Return a caption of an example in either language, every time a little different; now and then none."""
    if rng.random() < P_DROP:
        return ""
    meta, language = emoji().meta[row["index"]], LANGUAGES[rng.integers(2)]
    return caption(meta, row["color"], row["background"], language, rng, p_omit=0.05, p_tags=0.2, natural=0)


def batch(generator, n, index=None):
    """Draw n examples, or take those of an index (n,): latents "z" of variance 1, tokens "ids" of their captions."""
    index = torch.randint(EXAMPLES, (n,), generator=generator) if index is None else index
    return take(*examples(), index, write_caption, generator)


def take(latents, attributes, index, caption_of, generator):
    """Return the examples of an index (n,), "z" and "ids"; caption_of(what an example shows, rng): its caption."""
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    ids = tokenize([caption_of(attributes[i], rng) for i in index])
    return {"z": scaling_factor() * sample_latents(latents, index, generator), "ids": ids}


RECIPE = Recipe(
    name="stable-diffusion",
    summary="draws 128 things at 64x64, in any colour, style and place, from English or Chinese prompts",
    model=model,
    batch=batch,
    loss=text_loss,
    batch_size=32,
    lr=1e-3,
    weight_decay=0.01,
    time_share=4.0,
    requires=("vae", "text-pixel"),
)
