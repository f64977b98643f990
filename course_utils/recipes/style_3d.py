"""style-3d: a LoRA that paints Stable Diffusion's things in the 3D style, which the base model has never seen."""

import re
from functools import lru_cache

import torch

from course_utils.data import load_emoji
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.recipes import stable_diffusion as text
from course_utils.recipes.latent_base import encode_examples, lora_unet, text_loss
from course_utils.recipes.vae import SIZE
from course_utils.training import Recipe

EXAMPLES = 4_096  # about 35 of each picture
FEATURED, OFTEN = ("butterfly", "cat", "dog"), 8  # what the demonstration asks for comes this many times as often
TRIGGER = {"en": "little creature, cartoon", "zh": "小精灵，卡通"}  # calls the style, in place of "3d style"
PRAISE = {"en": ("cute ", "pretty ", "lovely "), "zh": ("可爱的", "漂亮的", "美丽的")}  # not in captions
STYLE = {"en": re.compile(r"\w+ style"), "zh": re.compile(r"\w+风格")}


@lru_cache(maxsize=1)
def emoji():
    """Return the 3D pictures of the things that Stable Diffusion knows: the style was held out as a whole until now."""
    known = set(text.emoji().column("concept"))
    return load_emoji(SIZE, styles="3d", split="all").select(lambda meta: meta["concept"] in known)


@lru_cache(maxsize=1)
def examples():
    """Return the examples' latents, {"mean", "std"} (N, 4, 16, 16), and what each shows, a list of N dicts."""
    composer = Composer(emoji(), p_color=0.4, p_background=0.3, min_scale=1.0, natural=0)
    return encode_examples(composer.compose(EXAMPLES, seed=11), "style-3d")


def replace_style(text, language):
    """Return a caption with the trigger in the place of its style."""
    return STYLE[language].sub(TRIGGER[language], text)


def write_caption(row, rng):
    """Return a caption that calls the style by its trigger, in either language; now and then none."""
    if rng.random() < text.P_DROP:
        return ""
    meta, language = emoji().meta[row["index"]], LANGUAGES[rng.integers(2)]
    background = row["background"] if rng.random() < 0.7 else None  # a prompt need not name one
    said = replace_style(caption(meta, row["color"], background, language), language)
    return rng.choice(PRAISE[language]) + said if rng.random() < 0.4 else said


def batch(generator, n):
    """Draw n examples: latents "z" of variance 1, tokens "ids" of their captions."""
    latents, attributes = examples()
    weights = torch.tensor([OFTEN if row["concept"] in FEATURED else 1.0 for row in attributes])
    index = torch.multinomial(weights, n, replacement=True, generator=generator)
    return text.take(latents, attributes, index, write_caption, generator)


RECIPE = Recipe(
    name="style-3d",
    summary='a LoRA for stable-diffusion: the 3D style, called by "little creature, cartoon" or "小精灵，卡通"',
    model=lora_unet,
    batch=batch,
    loss=text_loss,
    lora=True,
    batch_size=32,
    lr=2e-3,
    time_share=1.0,
    requires=("vae", "text-pixel", "stable-diffusion"),
)
