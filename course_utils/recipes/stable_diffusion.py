"""stable-diffusion: draws 64x64 emoji from an English or a Chinese prompt. The generator of notebook 06."""

from functools import lru_cache

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.data import load_emoji, load_splits
from course_utils.datasets.compose import LANGUAGES, Composer, caption
from course_utils.datasets.latent_cache import cached, encode_all
from course_utils.decoder.vae import VAE
from course_utils.finetune.lora import WIDE, inject
from course_utils.generator.conditions import beside
from course_utils.generator.objectives import diffusion_loss
from course_utils.recipes import text_pixel
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import PREDICTION, SCALE, SCHEDULE, make_unet, open_text_encoder, tokenize
from course_utils.training import Recipe

CONCEPTS = (
    *text_pixel.CONCEPTS,
    "dog", "cat", "horse", "cow face", "tiger face", "fox", "bear", "koala", "monkey face", "giraffe", "camel", "duck",
    "parrot", "snail", "honeybee", "lady beetle", "tropical fish", "shark", "unicorn", "hedgehog", "peach", "pineapple",
    "cherries", "ice cream", "doughnut", "cupcake", "french fries", "cheese wedge", "hot beverage", "tulip",
    "palm tree", "deciduous tree", "bus", "taxi", "sport utility vehicle", "police car", "delivery truck", "bicycle",
    "helicopter", "locomotive", "light bulb", "key", "camera", "television", "closed book", "alarm clock", "candle",
    "wrapped gift", "basketball", "trumpet", "top hat", "sunglasses", "t-shirt", "running shoe",
    "smiling face with sunglasses", "ghost", "alien", "jack-o-lantern", "sun", "rainbow", "fire", "snowflake",
    "castle", "tent",
)  # fmt: skip
EXAMPLES = 20_480  # composed once and kept as latents: about 50 of each picture
P_DROP = 0.1  # captions left empty in training, so that guidance has something to move away from
RANK = 16  # of LoRAs: 1.4 MB in half precision
NOISIER = 0.6  # t = T u^0.6: the noisy steps, where only the text tells what to draw, come more often


def model():
    """Return the untrained U-Net."""
    return make_unet()


def bypassed():
    """Return the trained U-Net, frozen, with bypasses that learn: what recipes of LoRAs train."""
    unet = checkpoints.load("stable-diffusion", make_unet())
    inject(unet, WIDE, RANK, generator=torch.Generator().manual_seed(0))
    return unet


@lru_cache(maxsize=1)
def text_encoder(device):
    """Return the frozen text encoder."""
    return open_text_encoder(device)


@lru_cache(maxsize=1)
def emoji():
    """Return the training pictures: the 64 things of notebook 04 and as many others, in three styles."""
    wanted = {*CONCEPTS, *(concept for _, concept in load_splits()["held_out_colors"])}
    return load_emoji(SIZE).select(lambda meta: meta["concept"] in wanted)


def composer():
    """Return the source of the examples: subjects fill the frame, on white or on any other background."""
    return Composer(emoji(), p_color=0.4, p_background=0.5, min_scale=1.0)


def compose():
    """Return the examples, always the same."""
    return composer().compose(EXAMPLES, seed=6)


def encoded(composed, name):
    """Return composed examples as latents, kept under a name: {"mean", "std"} (N, 4, 16, 16), and what each shows."""
    shown = [dict(zip(composed.attributes, row)) for row in zip(*composed.attributes.values())]

    def make():
        mean, std = encode_all(checkpoints.load("vae", VAE()), composed.images)
        return {"mean": mean, "std": std}

    return cached(name, "vae", make), shown


@lru_cache(maxsize=1)
def examples():
    """Return the examples' latents, {"mean", "std"} (N, 4, 16, 16), and what each shows, a list of N dicts."""
    return encoded(compose(), f"text-{EXAMPLES}")


def draw(latents, index, generator):
    """Draw from the autoencoder's Gaussians of some examples, (n,) -> (n, 4, 16, 16)."""
    mean, std = latents["mean"][index].float(), latents["std"][index].float()
    return mean + std * torch.randn(mean.shape, generator=generator)


def write_caption(row, rng):
    """Return a caption of an example in either language, every time a little different; now and then none."""
    if rng.random() < P_DROP:
        return ""
    meta, language = emoji().meta[row["index"]], LANGUAGES[rng.integers(2)]
    return caption(meta, row["color"], row["background"], language, rng, p_omit=0.05, p_tags=0.2)


def batch(generator, n, index=None):
    """Draw n examples, or take those of an index (n,): latents "z" of variance 1, tokens "ids" of their captions."""
    latents, shown = examples()
    index = torch.randint(EXAMPLES, (n,), generator=generator) if index is None else index
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    ids = tokenize([write_caption(shown[i], rng) for i in index])
    return {"z": SCALE * draw(latents, index, generator), "ids": ids}


def latent_loss(network, z, generator, **conditions):
    """Return the error of the predicted velocity on noisy versions of latents (n, 4, 16, 16)."""
    u = torch.rand(len(z), generator=generator, dtype=torch.float64)  # float32 could round up to T
    t = (SCHEDULE.num_steps * u**NOISIER).long()
    return diffusion_loss(network, z, SCHEDULE, PREDICTION, generator, t=t, **conditions)


def loss(network, batch, generator):
    """Return the error of the predicted velocity, given the captions, and what lies beside the latent, if anything."""
    model = beside(network, batch["extra"]) if "extra" in batch else network
    context = text_encoder(batch["ids"].device)(batch["ids"])
    return latent_loss(model, batch["z"], generator, context=context)


RECIPE = Recipe(
    name="stable-diffusion",
    summary="draws 128 things at 64x64, in any colour, style and place, from English or Chinese prompts",
    model=model, batch=batch, loss=loss,
    batch_size=32, lr=1e-3, weight_decay=0.01,
    time_share=4.0,
    requires=("vae", "text-pixel"),
)  # fmt: skip
