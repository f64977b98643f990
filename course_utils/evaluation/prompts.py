"""The prompts every system of the course is measured on: always the same, so that their numbers compare.

`fixed_prompts` asks for what training has shown, `held_out_prompts` for colours it never showed on those things, and
`matched_seen_prompts` for their nearest relatives that it did show: the difference is composition.
`held_out_style_prompts` asks for things in styles in which training never showed them, `bare_prompts` by name alone.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from course_utils.data import FIRST_STYLES, FLAT_STYLES, GROUPS, load_emoji, load_splits
from course_utils.datasets.captions import caption, sentence
from course_utils.datasets.compose import BACKGROUNDS, LANGUAGES, Composer
from course_utils.datasets.nouns import subject_name
from course_utils.errors import DataError

FORMS = {"list": caption, "sentence": sentence}  # how a prompt is worded


class Prompt(NamedTuple):
    """A caption, and the four things it asks for; color None: it does not say."""

    text: str
    concept: str
    style: str
    color: str | None
    background: str


@lru_cache(maxsize=2)
def _composer(styles: tuple[str, ...], split: str = "train") -> Composer:
    """What composes pictures of these styles: it knows which colours it paints and states."""
    return Composer(load_emoji(32, styles, split=split))  # 32: the size most notebooks have loaded anyway


def _prompts(rows, language: str, form: str = "list") -> list[Prompt]:
    """Word rows of (meta, color, background) in a language."""
    for what, given, known in (("language", language, LANGUAGES), ("form", form, tuple(FORMS))):
        if given not in known:
            raise DataError(f"Unknown {what} {given!r}: choose from {', '.join(known)}.")
    return [
        Prompt(FORMS[form](meta, color, background, language), meta["concept"], meta["style"], color, background)
        for meta, color, background in rows
    ]


def _background(rng) -> str:
    """White in half of all draws, as in training; else any other, all alike."""
    return BACKGROUNDS[rng.integers(1, len(BACKGROUNDS))] if rng.random() < 0.5 else "white"


def _rows(n, seed, concepts, styles, split="train") -> list[tuple]:
    """n rows of (meta, color, background) from a split: groups and styles take turns."""
    composer, rng, used, rows = _composer(tuple(styles), split), np.random.default_rng(seed), set(), []
    metas = composer.emoji.meta
    turns = [
        [
            i
            for i, m in enumerate(metas)
            if (m["style"], m["group"]) == (style, group) and (concepts is None or m["concept"] in concepts)
        ]
        for style in styles
        for group in GROUPS
    ]
    turns = [turn for turn in turns if turn]
    if n < 1 or not turns:
        raise DataError(f"Ask for at least one prompt (not {n}), and for concepts that training shows.")
    for k in range(n):
        turn = turns[k % len(turns)]
        fresh = [i for i in turn if metas[i]["concept"] not in used] or turn
        index = fresh[rng.integers(len(fresh))]
        meta, colors = metas[index], composer.colors[index] or [composer.natural[index]]
        color = colors[rng.integers(len(colors))] if rng.random() < 0.5 else None
        used.add(meta["concept"])
        rows.append((meta, color, _background(rng)))
    return rows


def fixed_prompts(language="en", n=100, seed=2024, concepts=None, styles=FLAT_STYLES, form="list") -> list[Prompt]:
    """Return n prompts for training (concept, style) pairs, the same examples in "en" and "zh". Built in notebook 04.

    Groups and styles take turns, so each gets its share; no concept comes twice while its group and style have others.
    About half state a colour, one that the Composer paints or states, and half another background than white.
    concepts: to choose from, where a system was trained on some only (None: all). styles: those it was trained on.
    form: "list", "pink butterfly, noto style, night sky", or "sentence", "a pink butterfly under the night sky, noto
    style", of the same examples. Raises DataError for an unknown language or form, n < 1 or no concept of the training
    pictures.
    """
    return _prompts(_rows(n, seed, concepts, styles), language, form)


def bare_prompts(language="en", n=100, seed=2024, concepts=None, styles=FLAT_STYLES) -> list[Prompt]:
    """Return n prompts that say a name and nothing else, "butterfly", "蝴蝶", of the things `fixed_prompts` asks for.

    Their style and background ("", "") are not asked for: only the concept can be judged. Raises as `fixed_prompts`.
    """
    if language not in LANGUAGES:
        raise DataError(f"Unknown language {language!r}: choose from {', '.join(LANGUAGES)}.")
    return [
        Prompt(subject_name(meta, language), meta["concept"], "", None, "")
        for meta, _, _ in _rows(n, seed, concepts, styles)
    ]


def held_out_style_prompts(language="en", n=100, seed=2024, concepts=None, styles=FLAT_STYLES, form="list"):
    """Return n prompts for things in a style in which training never showed them: the test (concept, style) pairs.

    Worded, and with colours and backgrounds, as `fixed_prompts` does; raises as it does.
    """
    return _prompts(_rows(n, seed, concepts, styles, split="test"), language, form)


def in_turn(make: Callable[..., list[Prompt]], n: int, **options) -> list[Prompt]:
    """Return the n prompts that `make`, one of the functions above, asks for, each in one language: they take turns."""
    both = [make(language, n, **options) for language in LANGUAGES]
    return [both[i % len(LANGUAGES)][i] for i in range(n)]


@lru_cache(maxsize=1)
def _compositions() -> tuple:
    """For each held-out (colour, concept) pair: itself, its concept in a seen colour, its colour on another concept."""
    composer, rng, triples = _composer(FIRST_STYLES), np.random.default_rng(50), []
    metas, held = composer.emoji.meta, load_splits()["held_out_colors"]
    concepts = {concept for _, concept in held}
    for color, concept in held:
        index = next(i for i, m in enumerate(metas) if m["concept"] == concept and color in m["recolors"])
        own, background = metas[index], _background(rng)
        painted = [c for c in composer.colors[index] if c != own["color"]]  # painted, as the held-out colour would be
        likes = [
            m
            for m, colors in zip(metas, composer.colors)
            if color in colors
            and m["color"] != color
            and m["concept"] not in concepts
            and (m["style"], m["group"]) == (own["style"], own["group"])
        ]
        other, like = painted[rng.integers(len(painted))], likes[rng.integers(len(likes))]
        triples.append(((own, color, background), (own, other, background), (like, color, background)))
    return tuple(triples)


def held_out_prompts(language="en", form="list") -> list[Prompt]:
    """Return a prompt for each (colour, concept) pair of which training never showed a picture or caption.

    In the first style, mostly "noto", in which training showed the concept. Raises DataError for an unknown language.
    """
    return _prompts([triple[0] for triple in _compositions()], language, form)


def matched_seen_prompts(language="en", keep="concept", form="list") -> list[Prompt]:
    """Return a seen relative of each held-out prompt, in its order, with the same style and background.

    keep "concept": the same concept in another colour, which training paints it in; "color": the same colour on another
    concept of its group. Raises DataError for an unknown language or keep.
    """
    if keep not in ("concept", "color"):
        raise DataError(f"Keep the concept or the color, not {keep!r}.")
    return _prompts([triple[1 if keep == "concept" else 2] for triple in _compositions()], language, form)
