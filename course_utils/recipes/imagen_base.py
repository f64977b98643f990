"""imagen-base: paints all 1,015 things in 16x16 pixels. A frozen language model reads the captions, once for all.

thing, colour, background ──► caption ──► language model ──► states, kept on disk
             └──► composed anew for every batch: place and size differ ──► picture
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn

from course_utils.data import FLAT_STYLES, Emoji, data_sums, load_emoji, to_tensor
from course_utils.datasets.compose import BACKGROUNDS, LANGUAGES, Composer, caption
from course_utils.datasets.latent_cache import cached, digest
from course_utils.devices import autocast, best_device
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.layers import resize
from course_utils.recipes.latent_base import COLORS, attribute_numbers
from course_utils.systems.imagen import PREDICTION, SCHEDULE, SIZE, SR1_SIDE, open_text, text_digest
from course_utils.systems.imagen import make_base as model
from course_utils.text_encoder.frozen import FrozenText
from course_utils.training import Recipe

CAPTIONS = 49_152  # read once by the language model: seven and more of each picture
CHUNK = 256  # captions read at a time
TOKENS = 32  # a caption's states, at most
P_DROP = 0.1  # captions zeroed in training, so that guidance has something to move away from
P_NAME = 0.15  # of the others that may, say the name alone: bare prompts are what people try first
TIMESTEP_POWER = 0.7  # t = T u^0.7: noisy steps, where only the text tells what to draw, come more often


# ------------------------------------------------------------------ data
@lru_cache(maxsize=1)
def emoji() -> Emoji:
    """Return the training pictures: all things, in seven flat styles."""
    return load_emoji(SR1_SIDE, FLAT_STYLES)


@lru_cache(maxsize=1)
def composer() -> Composer:
    """Return the source of pictures: subjects fill the frame or nearly so, in any colour and place."""
    return Composer(emoji(), p_color=0.5, p_background=0.5, min_scale=0.85)


def write_caption(meta: dict, color: str | None, background: str, rng: np.random.Generator) -> str:
    """Return a caption in either language; some say the name and nothing else."""
    language = LANGUAGES[rng.integers(2)]
    if color in (None, meta["color"]) and rng.random() < P_NAME:  # a colour of its own needs no word
        return caption(meta | {"style": None}, None, None, language, rng, p_omit=0.0)
    return caption(meta, color, background, language, rng)


def compose_captions(count: int, seed: int) -> tuple[dict[str, list], list[str]]:
    """Return what `count` examples show, as `Batch.attributes` has it, and a caption of each."""
    source, rng = Composer(load_emoji(SIZE, FLAT_STYLES), p_color=0.5, p_background=0.5), np.random.default_rng(seed)
    shown = source.compose(count, seed).attributes
    rows = zip(*(shown[key] for key in ("index", "color", "background")))
    return shown, [write_caption(source.emoji.meta[i], color, place, rng) for i, color, place in rows]


def read(captions: list[str], text: FrozenText | None = None) -> dict[str, torch.Tensor]:
    """Return a text encoder's states of N captions in a row: "states" (T, D), float16, and "ends" (N + 1,).

    text: the encoder (None: the shipped language model). What fills a text up is left out.
    """
    device = best_device()
    text, parts, ends = open_text(device) if text is None else text, [], [0]
    for start in range(0, len(captions), CHUNK):
        with torch.inference_mode(), autocast(device):
            ids, mask = (x.to(device) for x in text.tokenize(captions[start : start + CHUNK]))
            parts.append(text.encoder(ids, mask)[mask].half().cpu())
        ends += (ends[-1] + mask.sum(dim=1).cumsum(0)).tolist()
    return {"states": torch.cat(parts), "ends": torch.tensor(ends)}


@lru_cache(maxsize=1)
def captions() -> dict[str, torch.Tensor]:
    """Return all captions as the language model read them, and what each is true of, kept on disk.

    "states", "ends": as `read` has them; the rest as `attribute_numbers` has it.
    """

    def make():
        shown, texts = compose_captions(CAPTIONS, seed=16)
        return read(texts) | attribute_numbers(shown)

    return cached("imagen", digest(*compose_captions(CHUNK, seed=16), CAPTIONS, data_sums()), make)


def context_of(index: list[int], read_before: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Return the states of some captions, (n, 32, D), zero beyond their ends; read_before: as `read` gives them."""
    found = captions() if read_before is None else read_before
    context = torch.zeros(len(index), TOKENS, found["states"].shape[1])
    for row, i in zip(context, index):
        said = found["states"][found["ends"][i] : found["ends"][i + 1]]
        row[: len(said)] = said
    return context


def examples(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Compose n pictures "x" (n, 3, 64, 64), with "context" (n, 32, 384): zero for a share P_DROP of them.

    The captions are those that were read, the pictures are new: place and size of what they show differ every time.
    """
    seed, found, metas = int(torch.randint(2**31, (), generator=generator)), captions(), emoji().meta
    index = torch.randint(CAPTIONS, (n,), generator=generator).tolist()
    pictures = []
    for i in index:
        subject, color = int(found["index"][i]), COLORS[found["color"][i]]
        paint = None if color == metas[subject]["color"] else color  # a colour of its own is there already
        pictures.append(composer().render(subject, paint, BACKGROUNDS[found["background"][i]], seed + i))
    said = torch.rand(n, generator=generator) >= P_DROP
    return {"x": to_tensor(np.stack(pictures)), "context": context_of(index) * said[:, None, None]}


def batch(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Compose n pictures, "x0" (n, 3, 16, 16), with the states of their captions, "context" (n, 32, 384)."""
    made = examples(generator, n)
    return {"x0": resize(made["x"], SIZE), "context": made["context"]}


# ------------------------------------------------------------------ loss
def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the error of the predicted velocity, given the captions' states."""
    x0 = batch["x0"]
    t = sample_timesteps(len(x0), SCHEDULE.num_steps, TIMESTEP_POWER, generator)
    return diffusion_loss(network, x0, SCHEDULE, PREDICTION, generator, t=t, context=batch["context"])


def measure(network: nn.Module) -> dict[str, str]:
    """Return what the card says besides: which language model the network learnt to read."""
    return {"text_encoder": text_digest()}


RECIPE = Recipe(
    name="imagen-base",
    summary="paints all 1,015 things in 16x16 pixels, Imagen's first stage; a frozen language model reads the prompt",
    model=model,
    batch=batch,
    loss=loss,
    measure=measure,
    batch_size=64,
    lr=8e-4,
    warmup=200,
    weight_decay=0.01,
    ema_decay=0.9995,  # averages about the last two thousand steps
    decay=0.33,  # of the budget: most shapes appear while the rate falls
    time_share=6.0,
)
