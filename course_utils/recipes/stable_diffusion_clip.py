"""stable-diffusion-clip: draws all 1,015 things in seven styles. CLIP reads the prompt, a wide U-Net paints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from course_utils.checkpoints import scaling_factor
from course_utils.data import FLAT_STYLES, load_emoji
from course_utils.datasets.compose import BACKGROUNDS, LANGUAGES, Composer, caption
from course_utils.generator.conditions import concat_condition
from course_utils.generator.objectives import diffusion_loss, min_snr_weight, sample_timesteps
from course_utils.recipes.evaluator import ONE_SIDED
from course_utils.recipes.latent_base import COLORS, encode_in_chunks
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import PREDICTION, SCHEDULE, tokenize
from course_utils.systems.stable_diffusion_clip import NAME, VAE_NAME, make_unet, open_text_encoder
from course_utils.training import Recipe

CHUNK, CHUNKS = 2048, 64  # 131,072 examples, made into latents once: about 26 of each picture
P_DROP = 0.1  # captions left empty in training, so that guidance has something to move away from
P_NAME = 0.15  # of the others that may, say the name alone: bare prompts are what people try first


@dataclass(frozen=True)
class Options:
    """What about the training can be tried another way; the defaults make the shipped checkpoint."""

    power: float = 0.7  # t = T u^power: below 1, noisy steps, where only the text tells what to draw, come more often
    prediction: str = PREDICTION
    gamma: float | None = None  # of min-SNR weights; None: all steps count alike
    plain: float = 0.0  # share of examples that are on white and in their own colours, beside those that are by chance
    mirror: bool = False  # draw half of the examples the other way round, where left and right mean nothing
    pairing: bool = False  # give each latent the nearest of the batch's noises (optimal transport): shorter ways
    p_name: float = P_NAME


SHIPPED = Options()


# ------------------------------------------------------------------ data
@lru_cache(maxsize=1)
def emoji():
    """Return the training pictures: all things, in seven flat styles."""
    return load_emoji(SIZE, FLAT_STYLES)


@lru_cache(maxsize=1)
def composer():
    """Return the source of the examples: subjects fill the frame or nearly so, in any colour and place."""
    return Composer(emoji(), p_color=0.5, p_background=0.5, min_scale=0.85)


def compose(chunk, mirror=False):
    """Return the examples number CHUNK * chunk and following, always the same."""
    composed = composer().compose(CHUNK, seed=1000 + chunk)
    if not mirror:
        return composed
    lot = np.random.default_rng(chunk).random(CHUNK) < 0.5
    turned = lot & [not ONE_SIDED.search(concept) for concept in composed.attributes["concept"]]
    images = np.where(turned[:, None, None, None], composed.images[:, :, ::-1], composed.images)
    masks = np.where(turned[:, None, None], composed.masks[:, :, ::-1], composed.masks)
    return composed._replace(images=images, masks=masks)


@lru_cache(maxsize=1)
def examples(mirror=False):
    """Return the examples' latents and what each shows, as `encode_in_chunks` has them."""
    return encode_in_chunks(partial(compose, mirror=mirror), CHUNKS, VAE_NAME, NAME)


@lru_cache(maxsize=1)
def plain_examples(mirror=False):
    """Return the numbers (N,) of the examples on white whose subject has its own colour."""
    shown = examples(mirror)
    own = torch.tensor([COLORS.index(meta["color"]) for meta in emoji().meta])[shown["index"].long()]
    natural = (shown["color"] == 0) | (shown["color"] == own)
    return torch.nonzero(natural & (shown["background"] == BACKGROUNDS.index("white")))[:, 0]


def write_caption(meta, color, background, rng, p_name=P_NAME):
    """Return a caption of an example in either language, every time a little different; now and then none."""
    if rng.random() < P_DROP:
        return ""
    language = LANGUAGES[rng.integers(2)]
    if color in (None, meta["color"]) and rng.random() < p_name:  # a colour of its own needs no word
        return caption(meta | {"style": None}, None, None, language, rng, p_omit=0.0)
    return caption(meta, color, background, language, rng)


def draw_index(n, generator, options=SHIPPED):
    """Draw the numbers (n,) of examples, a share of them from the plain ones."""
    index = torch.randint(CHUNK * CHUNKS, (n,), generator=generator)
    if not options.plain:
        return index
    plain = plain_examples(options.mirror)
    some = plain[torch.randint(len(plain), (n,), generator=generator)]
    return torch.where(torch.rand(n, generator=generator) < options.plain, some, index)


def batch(generator, n, options=SHIPPED, index=None):
    """Draw n examples, or take those of an index (n,): latents "z" of variance 1, tokens "ids" of their captions."""
    shown, metas = examples(options.mirror), emoji().meta
    index = draw_index(n, generator, options) if index is None else index
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    rows = zip(*(shown[key][index].tolist() for key in ("index", "color", "background")))
    captions = [write_caption(metas[i], COLORS[c], BACKGROUNDS[b], rng, options.p_name) for i, c, b in rows]
    return {"z": scaling_factor(name=VAE_NAME) * shown["z"][index].float(), "ids": tokenize(captions)}


# ------------------------------------------------------------------ loss
@lru_cache(maxsize=1)
def text_encoder(device):
    """Return CLIP's text tower, frozen."""
    return open_text_encoder(device)


def nearest_noises(z, generator):
    """Return the order of latents (n, ...) in which each meets the noise that the loss will draw at its place.

    Of all ways to give n noises to n latents, that with the least sum of squared distances. Tong et al. 2024 (OT-CFM).
    The generator stays where it is.
    """
    ahead = torch.Generator()
    ahead.set_state(generator.get_state())
    eps = torch.randn(z.shape, generator=ahead).to(z)
    cost = torch.cdist(eps.flatten(1), z.flatten(1)).square()
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(z.device)  # row i: the latent of noise i


def loss(network, batch, generator, options=SHIPPED, reader=text_encoder):
    """Return the error of the prediction, given the captions, and what lies beside the latent, if anything.

    reader(device): what makes a context of token numbers.
    """
    z, context = batch["z"], reader(batch["ids"].device)(batch["ids"])
    network = concat_condition(network, batch["cond_channels"]) if "cond_channels" in batch else network
    t = sample_timesteps(len(z), SCHEDULE.num_steps, options.power, generator)
    if options.pairing:
        order = nearest_noises(z, generator)
        z, context = z[order], context[order]
    weight = options.gamma and partial(
        min_snr_weight, schedule=SCHEDULE, prediction=options.prediction, gamma=options.gamma
    )
    return diffusion_loss(network, z, SCHEDULE, options.prediction, generator, weight, t, context=context)


RECIPE = Recipe(
    name=NAME,
    summary="draws all 1,015 things at 64x64, in seven styles, any colour and place; CLIP reads the prompt",
    model=make_unet,
    batch=batch,
    loss=loss,
    batch_size=64,
    lr=8e-4,
    warmup=200,
    weight_decay=0.01,
    ema_decay=0.9995,  # averages about the last two thousand steps
    decay=0.33,  # of the budget: most shapes appear while the rate falls
    time_share=8.0,
    requires=(VAE_NAME, "clip"),
)


def variant(options, reader=text_encoder, **fields):
    """Return the recipe with other options, another reader of captions, and other fields such as lr or model."""
    trial = partial(loss, options=options, reader=reader)
    return replace(RECIPE, batch=partial(batch, options=options), loss=trial, **fields)
