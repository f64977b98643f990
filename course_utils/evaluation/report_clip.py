"""How well CLIP brings words and pictures together: naming, retrieval and colours, on pictures it has not seen.

held-out pictures ──► image_embed ──┐
                                    ├──► cosines ──► is the right one among the k nearest?
names, captions ────► text_embed ───┘
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, WORDS_ZH, Batch, Composer, caption
from course_utils.datasets.nouns import subject_name
from course_utils.errors import InputError
from course_utils.evaluation.intervals import Mean, Share
from course_utils.evaluation.report import NAMES
from course_utils.systems.clip import CLIP, SIZE, embed_images, embed_texts, open_clip

SCORE_SCALE = 2.5  # spreads the cosines of OpenAI's CLIP over 0 to 1; kept, so that the formula is the paper's
PAIRS = 400  # pictures among whose captions the right one is looked for


def recall(query: torch.Tensor, keys: torch.Tensor, right: torch.Tensor, k: int = 1) -> Share:
    """Return the share of queries (N, D) whose right key, number right (N,) of keys (M, D), is among the k nearest.

    All vectors have unit length. Called R@k where pictures look for captions. Built in notebook 07.
    """
    if not 1 <= k <= len(keys):
        raise InputError(f"k must be from 1 to {len(keys)}, the number of keys, not {k}")
    nearest = (query @ keys.T).topk(k).indices  # (N, k)
    return Share.of((nearest == right[:, None]).any(dim=1))


@lru_cache(maxsize=1)
def concept_names() -> dict[str, dict[str, str]]:
    """Return {"en", "zh"} -> {concept: its name}, of all concepts in alphabetic order."""
    metas = sorted(load_emoji(SIZE, "noto", split="all").meta, key=lambda meta: meta["concept"])
    return {language: {meta["concept"]: subject_name(meta, language) for meta in metas} for language in LANGUAGES}


@lru_cache(maxsize=2)
def held_out_examples(n: int, split: str = "test", seed: int = 0) -> tuple[Batch, Composer]:
    """Return n composed pictures of emoji that training has not seen (split "test"), or has ("train")."""
    composer = Composer(load_emoji(SIZE, split=split))
    return composer.compose(n, seed), composer


def full_captions(pictures: Batch, composer: Composer, language: str) -> list[str]:
    """Return captions that name concept, style, colour and background, in one form."""
    rows = zip(*(pictures.attributes[key] for key in ("index", "color", "background")))
    return [caption(composer.emoji.meta[index], color, place, language) for index, color, place in rows]


def zero_shot(clip: CLIP, image_embed: torch.Tensor, concepts: list[str], language: str) -> dict[str, Share]:
    """Return how often the nearest of all concepts' names is the right one, top 1 and top 5, for N pictures."""
    names = concept_names()[language]
    order = {concept: i for i, concept in enumerate(names)}
    keys, right = embed_texts(clip, list(names.values())), torch.tensor([order[concept] for concept in concepts])
    return {"concept": recall(image_embed, keys, right), "concept_top5": recall(image_embed, keys, right, 5)}


def retrieval(
    clip: CLIP,
    image_embed: torch.Tensor,
    pictures: Batch,
    composer: Composer,
    language: str,
    ks: tuple[int, ...] = (1,),
) -> dict[str, Share]:
    """Return {"R@k": how often a picture finds its own full caption}, of the first PAIRS pictures and captions."""
    captions = embed_texts(clip, full_captions(pictures, composer, language)[:PAIRS])
    own = torch.arange(len(captions))
    return {f"R@{k}": recall(image_embed[: len(own)], captions, own, k) for k in ks}


def color_accuracy(clip: CLIP, image_embed: torch.Tensor, pictures: Batch, composer: Composer, language: str) -> Share:
    """Return how often the caption with the right colour word is nearer than the ten with others."""
    colors = list(WORDS_ZH)
    asked = [row for row, color in enumerate(pictures.attributes["color"][: len(image_embed)]) if color is not None]
    metas = [composer.emoji.meta[pictures.attributes["index"][row]] | {"style": None} for row in asked]
    texts = [caption(meta, color, None, language) for meta in metas for color in colors]
    text_embed = embed_texts(clip, texts).unflatten(0, (len(asked), len(colors)))  # (n, 11, D)
    nearest = (text_embed @ image_embed[asked, :, None]).squeeze(-1).argmax(dim=1)  # (n,)
    right = torch.tensor([colors.index(pictures.attributes["color"][row]) for row in asked])
    return Share.of(nearest == right)


def clip_score(clip: CLIP, x: torch.Tensor, prompts: list[str]) -> Mean:
    """Return how well pictures x (N, 3, H, W) in [-1, 1] fit their N prompts: the mean of 2.5 max(cosine, 0).

    The score of Hessel et al. 2021, section 3, with our own CLIP: compare it within this course, never with a paper. A
    model whose text encoder comes from this CLIP, or that is trained to please it, has a judge who is no stranger.
    Raises InputError unless there is one prompt a picture. Built in notebook 07.
    """
    if x.ndim != 4 or len(x) != len(prompts) or not len(x):
        raise InputError(f"a CLIP score needs one prompt a picture, not {len(prompts)} for x of shape {tuple(x.shape)}")
    cosines = (embed_images(clip, x) * embed_texts(clip, list(prompts))).sum(dim=1)
    return Mean.of(SCORE_SCALE * cosines.clamp(min=0))


def evaluate_clip(n: int = 1000, folder: str | Path | None = None) -> dict[str, dict[str, Share]]:
    """Let CLIP name n held-out pictures, and look among PAIRS captions for theirs, in both languages.

    concept, concept_top5: the right name of 1,015 is nearest, or among the five nearest; R@1, R@5: a picture finds its
    own caption among PAIRS; color: the right colour word of eleven.
    """
    clip, rows = open_clip(folder=folder), {}
    for name, split in (("held out", "test"), ("trained on", "train")):
        pictures, composer = held_out_examples(n, split)
        image_embed = embed_images(clip, to_tensor(pictures.images))
        for language in LANGUAGES:
            rows[f"{name}, {NAMES[language]}"] = {
                **zero_shot(clip, image_embed, pictures.attributes["concept"], language),
                **retrieval(clip, image_embed, pictures, composer, language, ks=(1, 5)),
                "color": color_accuracy(clip, image_embed[:PAIRS], pictures, composer, language),
            }
    return rows
