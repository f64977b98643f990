"""Does it draw what it is asked, however it is asked? The table of `course evaluate stable-diffusion-clip`.

list, sentence, name alone ──────────► pictures ──► evaluator ──► concept, style, colour, background
colours and styles never shown ──────► pictures ──► evaluator ──► the same; nearer to the unseen drawing, or to a seen?
sixteen times the same name ─────────► pictures ──► feature net ► how unlike each other, beside real ones
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from course_utils import checkpoints
from course_utils.data import FLAT_STYLES, Emoji, load_emoji, to_tensor
from course_utils.datasets.captions import caption
from course_utils.datasets.compose import LANGUAGES, Composer
from course_utils.decoder.perceptual import FeatureNet
from course_utils.evaluation.copying import nearest
from course_utils.evaluation.evaluator import ATTRIBUTES, Evaluator, class_names, load_evaluator
from course_utils.evaluation.fidelity import prompt_diversity
from course_utils.evaluation.intervals import Mean, Share
from course_utils.evaluation.metrics import alignment, extract_features
from course_utils.evaluation.prompts import (
    Prompt,
    bare_prompts,
    fixed_prompts,
    held_out_prompts,
    held_out_style_prompts,
    matched_seen_prompts,
)
from course_utils.evaluation.report import NAMES, drawing
from course_utils.layers import resize

SIZE = 64  # pixels a side
DRAWS = 16  # of one name, to see their variety
FORMS = {  # row -> the prompts of a language
    "full": fixed_prompts,
    "sentences": partial(fixed_prompts, form="sentence"),
    "names alone": bare_prompts,
}
COMPOSITIONS = {
    "held-out colour": held_out_prompts,
    "the same in a seen colour": matched_seen_prompts,
}


def targets(prompts: list[Prompt]) -> dict[str, list]:
    """What prompts ask for, as `alignment` reads it; None where nothing is, or the evaluator knows no such word."""
    known = class_names()
    return {
        attribute: [word if (word := getattr(prompt, attribute)) in known[attribute] else None for prompt in prompts]
        for attribute in ATTRIBUTES
    }


@lru_cache(maxsize=2)
def real_composer(split: str) -> Composer:
    """What composes real pictures as Stable Diffusion was shown them; split "test": those it was not."""
    return Composer(load_emoji(SIZE, FLAT_STYLES, split=split), min_scale=0.85)


def real_pictures(prompts: list[Prompt], split: str = "train") -> torch.Tensor:
    """Return the real picture that each prompt asks for, (N, 3, 64, 64): all of them exist in the split."""
    composer = real_composer(split)
    rows = {(meta["concept"], meta["style"]): i for i, meta in enumerate(composer.emoji.meta)}
    pictures = []
    for seed, prompt in enumerate(prompts):
        row = rows[prompt.concept, prompt.style]
        color = None if prompt.color == composer.emoji.meta[row]["color"] else prompt.color
        pictures.append(to_tensor(composer.render(row, color, prompt.background, seed)[None]))
    return torch.cat(pictures)


def pictures_of(concept: str, split: str = "train") -> Emoji:
    """Return the drawings of a concept in the seven flat styles, those of a split."""
    return real_composer(split).emoji.select(lambda meta: meta["concept"] == concept)


def on_white(prompt: Prompt, language: str) -> str:
    """The prompt for a thing in its style, on white and in its own colour."""
    meta = next(m for m in real_composer("test").emoji.meta if (m["concept"], m["style"]) == prompt[1:3])
    return caption(meta, None, "white", language)


def nearer_to_unseen(evaluator: Evaluator, x: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    """Is each of x (N, 3, 64, 64) nearer to the drawing that was held out than to any that training showed? (N,) bool.

    x: drawn on white; prompts: N of `held_out_style_prompts`. Compared are the thing's drawings on white, by the
    evaluator's features: what they mean, wherever in the picture it is. By chance it is one in as many drawings as
    the thing has, about 1 of 6: a network that repeats what it was shown stays below.
    """
    features, hits = extract_features(evaluator, x), []
    for i, prompt in enumerate(prompts):
        unseen = pictures_of(prompt.concept, "test").select(lambda meta, style=prompt.style: meta["style"] == style)
        drawings = to_tensor(unseen.on_white()), to_tensor(pictures_of(prompt.concept).on_white())
        known = extract_features(evaluator, torch.cat(drawings))
        hits.append(int(nearest(features[i : i + 1], known).index) == 0)
    return torch.tensor(hits)


def variety(
    net: FeatureNet, x: torch.Tensor, prompts: list[Prompt], draws: int = DRAWS, styles: tuple[str, ...] = FLAT_STYLES
) -> Mean:
    """Return how unlike each other drawings of one name are, over the same of real pictures of it: 1 is as varied.

    x (N * draws, 3, S, S): `draws` of each of N `bare_prompts`. Real pictures show the thing in these styles, on any
    background, in its own colour, as training shows it under its name. The ratio of the mean perceptual distances,
    averaged over the prompts.
    """
    ratios = []
    for i, (prompt, drawn) in enumerate(zip(prompts, x.split(draws))):
        own = pictures_of(prompt.concept).select(lambda meta: meta["style"] in styles)
        composed = Composer(own, p_color=0.0, min_scale=0.85).compose(draws, seed=i)
        real = resize(to_tensor(composed.images), x.shape[-1])
        spread = [prompt_diversity(net, pictures, [0] * draws) for pictures in (drawn, real)]
        ratios.append(spread[0] / spread[1])
    return Mean.of(ratios)


def evaluate_prompts(system: str, n: int = 200, **options) -> dict[str, dict[str, float]]:
    """Draw n prompts a language in every form, all compositions never shown, and n / 8 names DRAWS times each.

    system: one that was shown all concepts in the seven flat styles; options: those of `drawing`. Returns {row:
    figures}; the row of real pictures, of the very prompts, is what the evaluator itself gets right, and no network can
    be expected to do better. The same noise serves all rows. About 11 n + 200 pictures are drawn.
    """
    draw, evaluator, rows = drawing(system, **options), load_evaluator(), {}
    wanted = {form: partial(make, n=n) for form, make in FORMS.items()} | COMPOSITIONS
    wanted["held-out style"] = partial(held_out_style_prompts, n=n)
    for what, make in wanted.items():
        for language in LANGUAGES:
            prompts = make(language)
            x = draw([prompt.text for prompt in prompts])
            rows[f"{what}, {NAMES[language]}, {len(prompts)}"] = alignment(evaluator, x, targets(prompts))
    for what, split, make in (("seen", "train", fixed_prompts), ("held-out style", "test", held_out_style_prompts)):
        prompts = make(n=n)
        rows[f"real pictures, {what}, {n}"] = alignment(evaluator, real_pictures(prompts, split), targets(prompts))
    return rows | compositions(evaluator, draw, n) | varieties(draw, max(2, n // 8))


def compositions(evaluator: Evaluator, draw: Callable, n: int) -> dict[str, dict[str, float]]:
    """A row for n held-out (concept, style) pairs on white: named, in style, and nearer to the drawing never shown?"""
    prompts = held_out_style_prompts(n=n)
    x = draw([on_white(prompt, "en") for prompt in prompts])
    asked = targets([prompt._replace(color=None, background="white") for prompt in prompts])
    unseen = Share.of(nearer_to_unseen(evaluator, x, prompts))
    return {f"held-out style on white, {n}": alignment(evaluator, x, asked) | {"unseen": unseen}}


def varieties(draw: Callable, n: int) -> dict[str, dict[str, float]]:
    """A row for n names, drawn DRAWS times each: how varied, beside real pictures."""
    prompts, net = bare_prompts(n=n), checkpoints.load("perceptual", FeatureNet())
    x = draw([prompt.text for prompt in prompts for _ in range(DRAWS)])
    return {f"{n} names, {DRAWS} times each": {"variety": variety(net, x, prompts)}}
