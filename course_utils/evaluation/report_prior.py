"""What a prior adds to a text vector: vectors for captions, by seven ways, against those of real pictures.

captions ──► text vector, shifted, regression, MLP, two priors ──► vectors ──► near the true one? as wide?
pictures ──► CLIP ────────────────────────────────────────────────────┘

A caption that names everything has about one vector, and whoever comes nearest to it is best. A caption that is only a
name has many: there a good way is as far from a real picture as real ones are from each other, and as wide as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer
from course_utils.evaluation.intervals import Estimate, Mean, Share, interval
from course_utils.evaluation.metrics import frechet_distance
from course_utils.evaluation.prompts import bare_prompts, in_turn
from course_utils.evaluation.report_clip import full_captions, recall
from course_utils.generator.prior_diffusion import keep_better
from course_utils.recipes import prior_base
from course_utils.systems.clip import CLIP, SIZE, embed_images, embed_texts, open_clip
from course_utils.systems.dalle2 import DALLE2, open_prior
from course_utils.systems.stage import start_noise

FULL, NAMES, DRAWS = 400, 48, 16  # captions that say all; names, and vectors of each
BATCH = 64  # captions at a time
MLP_STEPS, MLP_WIDTH = 1500, 512  # ten seconds of two cores

Feed = Callable[[list[str], int], torch.Tensor]  # (captions, seed) -> image vectors (N, D) of unit length


@dataclass(frozen=True)
class Captions:
    """Captions (N), grouped: M of them, each `draws` times in a row; what belongs to them in the world.

    real, other: vectors (N, D) of two sets of pictures of them, concepts: what each shows (N).
    """

    texts: list[str]
    draws: int
    real: torch.Tensor
    other: torch.Tensor | None
    concepts: list[str]


# ------------------------------------------------------------------ ways without a prior
@lru_cache(maxsize=1)
def training_pairs(clip: CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (N, D) of captions as the priors read them, and of the training pictures they belong to."""
    shown, rng = prior_base.encode_chunk("vectors", prior_base.composer(), 0), np.random.default_rng(8)
    count = range(len(shown["index"]))
    captions = [prior_base.write_caption(shown, i, prior_base.composer(), rng, p_drop=0.0) for i in count]
    return embed_texts(clip, captions).clone(), shown["image_embed"].float()  # a clone may be learnt from


def fit_linear(text_embed: torch.Tensor, image_embed: torch.Tensor) -> nn.Module:
    """The linear map with a bias that comes nearest to the image vectors, by least squares."""
    one = torch.ones(len(text_embed), 1)
    solution = torch.linalg.lstsq(torch.cat([text_embed, one], dim=1), image_embed).solution  # (D + 1, D)
    linear = nn.Linear(text_embed.shape[1], image_embed.shape[1]).requires_grad_(False)
    linear.weight.copy_(solution[:-1].T)
    linear.bias.copy_(solution[-1])
    return linear


def fit_mlp(
    text_embed: torch.Tensor, image_embed: torch.Tensor, steps: int = MLP_STEPS, width: int = MLP_WIDTH
) -> nn.Module:
    """Two layers trained to come near to the image vectors: a prior that knows one answer to every caption."""
    generator, dim = torch.Generator().manual_seed(0), text_embed.shape[1]
    mlp = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, image_embed.shape[1]))
    optimizer = torch.optim.AdamW(mlp.parameters(), 1e-3, weight_decay=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        index = torch.randint(len(text_embed), (256,), generator=generator)
        loss = F.mse_loss(mlp(text_embed[index]), image_embed[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mlp.requires_grad_(False)


def plain_feeds(clip: CLIP, text_embed: torch.Tensor, image_embed: torch.Tensor) -> dict[str, Feed]:
    """Ways that give one vector a caption; two of them learn from pairs (N, D) of texts and pictures."""
    shift = image_embed.mean(dim=0) - text_embed.mean(dim=0)
    ways = {"text vector": nn.Identity(), "text, shifted": lambda text: text + shift}
    ways |= {"linear": fit_linear(text_embed, image_embed), "MLP": fit_mlp(text_embed, image_embed)}

    def feed(way: Callable) -> Feed:
        return lambda captions, seed: F.normalize(way(embed_texts(clip, captions)), dim=-1)

    return {name: feed(way) for name, way in ways.items()}


# ------------------------------------------------------------------ the priors
@torch.inference_mode()
def sample_prior(system: DALLE2, captions: list[str], seed: int = 0) -> torch.Tensor:
    """What a system's prior draws for N captions, from the seed's noises: (N, D), or (N, 2, D) where it draws twice."""
    stage, made = system.prior_stage(), []
    for i in range(0, len(captions), BATCH):
        part = captions[i : i + BATCH]
        noise = start_noise(seed, len(part), stage.shape, i).to(system.device)
        *_, last = stage.sampler(stage.model(part, 1.0, None, None), noise, stage.steps)
        made.append((stage.decode(last.xt) if stage.decode else last.xt).cpu())
    return torch.cat(made)


def prior_feeds(clip: CLIP, folder: str | Path | None = None) -> dict[str, Feed]:
    """The trained priors at hand: one draw of each, and of the diffusion prior the better of two too."""
    there = [name for name in ("ar", "diffusion") if f"prior-{name}" in checkpoints.available(folder)]
    systems = {name: DALLE2(clip, open_prior(name, folder=folder), None, None) for name in there}

    def better(captions: list[str], seed: int) -> torch.Tensor:
        return keep_better(sample_prior(systems["diffusion"], captions, seed), embed_texts(clip, captions))

    feeds = {}
    if "ar" in systems:
        feeds["autoregressive"] = lambda captions, seed: sample_prior(systems["ar"], captions, seed)
    if "diffusion" in systems:
        feeds["diffusion"] = lambda captions, seed: sample_prior(systems["diffusion"], captions, seed)[:, 0]
        feeds["diffusion, best of 2"] = better
    return feeds


# ------------------------------------------------------------------ captions, and the pictures they belong to
def full_set(clip: CLIP, n: int = FULL) -> Captions:
    """n held-out pictures, in both languages in turn, with captions that name all that they show."""
    source = Composer(load_emoji(SIZE, split="test"), p_color=0.5, p_background=0.5, min_scale=1.0)
    pictures = source.compose(n, seed=80)
    both = [full_captions(pictures, source, language) for language in LANGUAGES]
    texts = [both[i % len(LANGUAGES)][i] for i in range(n)]
    return Captions(texts, 1, embed_images(clip, to_tensor(pictures.images)), None, pictures.attributes["concept"])


def name_set(clip: CLIP, n: int = NAMES, draws: int = DRAWS) -> Captions:
    """n names of things, in both languages in turn, `draws` times each, and twice as many pictures of each."""
    asked = in_turn(bare_prompts, n)
    emoji, sets = prior_base.composer().emoji, []
    for i, prompt in enumerate(asked):
        own = emoji.select(lambda meta, concept=prompt.concept: meta["concept"] == concept)
        source = Composer(own, p_color=0.5, p_background=0.5, min_scale=1.0)
        sets.append(embed_images(clip, to_tensor(source.compose(2 * draws, seed=i).images)))
    real, other = (torch.cat([vectors[half] for vectors in sets]) for half in (slice(draws), slice(draws, None)))
    texts, concepts = (
        [value for value in column for _ in range(draws)] for column in zip(*((p.text, p.concept) for p in asked))
    )
    return Captions(texts, draws, real, other, concepts)


# ------------------------------------------------------------------ the table
def by_caption(values: torch.Tensor, draws: int) -> np.ndarray:
    """Values (N,) averaged over the draws of each caption, (M,): only captions are independent."""
    return values.float().unflatten(0, (-1, draws)).mean(dim=1).numpy()


def width(vectors: torch.Tensor, draws: int) -> np.ndarray:
    """The mean distance between the vectors (N, D) of each caption, (M,)."""
    return torch.stack([torch.pdist(group).mean() for group in vectors.split(draws)]).numpy()


def measure(
    vectors: torch.Tensor, captions: Captions, text_embed: torch.Tensor, gallery: tuple[torch.Tensor, list[str]]
) -> dict[str, Estimate]:
    """The row of a way's vectors (N, D) for captions whose text vectors are (N, D).

    cos_true: to the true picture, or to all real ones of the caption; R@1: is the true picture the nearest of all N, of
    captions that have one; frechet: 1000 times the distance to the real vectors; diversity: width a caption, over that
    of real pictures; nearest: shows the nearest picture of the gallery, (G, D) and concepts, the same thing?
    """
    draws, real = captions.draws, captions.real
    groups = zip(vectors.split(draws), real.split(draws), strict=True)
    row = {
        "cos_true": Mean.of([float((mine @ theirs.T).mean()) for mine, theirs in groups]),
        "cos_text": Mean.of(by_caption((vectors * text_embed).sum(dim=1), draws)),
        "frechet": Estimate(1000 * frechet_distance(vectors, real)),
    }
    found = (vectors @ gallery[0].T).argmax(dim=1).tolist()
    same = by_caption(torch.tensor([gallery[1][i] == concept for i, concept in zip(found, captions.concepts)]), draws)
    row["nearest"] = Share(same.mean(), *interval(same), len(same))
    if draws == 1:
        return row | {"R@1": recall(vectors, real, torch.arange(len(real)))}
    return row | {"diversity": Mean.of(width(vectors, draws) / width(real, draws).mean())}


@lru_cache(maxsize=1)
def gallery() -> tuple[torch.Tensor, list[str]]:
    """Vectors (G, D) of training pictures, and what each shows."""
    shown, metas = prior_base.encode_chunk("vectors", prior_base.composer(), 0), prior_base.composer().emoji.meta
    return shown["image_embed"].float(), [metas[i]["concept"] for i in shown["index"].tolist()]


def compare_feeds(feeds: dict[str, Feed], captions: Captions, clip: CLIP, seed: int = 0) -> dict[str, dict[str, float]]:
    """The rows of several ways for the same captions, each with its seconds a caption; last that of other pictures."""
    rows, text_embed = {}, embed_texts(clip, captions.texts)
    for name, feed in feeds.items():
        start = time.perf_counter()
        vectors = feed(captions.texts, seed)
        seconds = (time.perf_counter() - start) / len(vectors)
        rows[name] = measure(vectors, captions, text_embed, gallery()) | {"seconds": Estimate(seconds)}
    if captions.other is not None:
        rows["other real pictures"] = measure(captions.other, captions, text_embed, gallery())
    return rows


def evaluate_priors(
    n: int = FULL, names: int = NAMES, draws: int = DRAWS, folder: str | Path | None = None
) -> dict[str, dict[str, float]]:
    """Every way from captions to image vectors, for n captions that say all and for names alone; as `evaluate`.

    folder: where the priors' checkpoints lie (None: the shipped ones). It takes about two minutes of two cores.
    """
    checkpoints.card("prior-diffusion", folder)  # without it there is nothing to compare
    clip = open_clip(folder=checkpoints.parent_folder("prior-diffusion", "clip", folder))
    feeds = plain_feeds(clip, *training_pairs(clip)) | prior_feeds(clip, folder)
    sets = {"full": full_set(clip, n), "name": name_set(clip, names, draws)}
    return {
        f"{kind}: {name}": row
        for kind, captions in sets.items()
        for name, row in compare_feeds(feeds, captions, clip).items()
    }
