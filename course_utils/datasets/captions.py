"""Captions as people write them, true of the picture: "a red car in the snow", "雪地里的红色汽车", "car, snow"."""

from __future__ import annotations

import string

import numpy as np

from course_utils.datasets.nouns import (
    NAMES_COLOR,
    PLURAL_GROUPS,
    is_counted,
    measured,
    other_words,
    plural,
    subject_name,
    with_article,
)

LANGUAGES = ("en", "zh")
WORDS_ZH = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "white": "白色",
    "grey": "灰色",
}
PLAIN = {
    "white": ((255, 255, 255), "白色"),
    "light blue": ((205, 228, 250), "浅蓝色"),  # pale: subjects stand out
    "light green": ((214, 240, 208), "浅绿色"),
    "light yellow": ((253, 243, 196), "浅黄色"),
    "light pink": ((252, 220, 230), "浅粉色"),
    "light purple": ((228, 218, 247), "浅紫色"),
}
SCENES = {
    "blue sky and grass": "蓝天，草地",
    "night sky": "夜空",
    "beach": "沙滩",
    "snow": "雪地",
    "sea": "大海",
    "sunset": "日落",
}
BACKGROUNDS = (*PLAIN, *SCENES)
PLACES = {  # where a thing is: background -> after an English noun, before a Chinese one
    **{name: (f"on a {name} background", f"{zh}背景上") for name, (_, zh) in PLAIN.items()},
    "blue sky and grass": ("on the grass under a blue sky", "蓝天下草地上"),
    "night sky": ("under the night sky", "夜空下"),
    "beach": ("at the beach", "沙滩上"),
    "snow": ("in the snow", "雪地里"),
    "sea": ("at sea", "大海上"),
    "sunset": ("at sunset", "日落时"),
}
SENTENCES = {  # {one}: with an article or measure word; {it}: without; {place}, {style}: empty if left out
    "en": (
        "{one}{place}{style}",
        "{it}{place}{style}",
        "a drawing of {one}{place}{style}",
        "a picture of {one}{place}{style}",
        "{one}{style}{place}",
    ),
    "zh": ("{place}{it}{style}", "{place}{one}{style}", "一张{place}{it}的图片{style}"),
}
P_PLURAL, P_CAPITALS = 0.04, 0.08  # chances that a caption speaks of many, or has capital letters


def caption(
    meta: dict,
    color: str | None = None,
    background: str | None = None,
    language: str = "en",
    rng: np.random.Generator | None = None,
    p_omit: float = 0.35,
    p_tags: float = 0.15,
    natural: float = 0.5,
) -> str:
    """The caption of a picture, in "en" or "zh": "pink butterfly, noto style, night sky". Built in notebook 01.

    With `rng`, style and background are each left out with p_omit, another word stands for the name with p_tags, and
    a share `natural` are sentences: "a pink butterfly under the night sky". natural 0: lists of words alone, where no
    colour is stated with up to three tags for the name. background None: not named.
    """
    lot_tags, lot_style, lot_background = rng.random(3) if rng is not None else (1, 1, 1)
    style = None if lot_style < p_omit else meta["style"]
    background = None if lot_background < p_omit else background
    subject = subject_name(meta, language)
    if rng is None or not natural:
        if lot_tags < p_tags and not color:
            tags = [tag for tag in meta[f"tags_{language}"] if not NAMES_COLOR.search(tag)]
            subject = ("、" if language == "zh" else " ").join(rng.permutation(tags)[:3]) or subject
        return _list(subject, style, color, background, language)
    others = other_words(meta, language) if lot_tags < p_tags else []
    subject = str(rng.choice(others)) if others else subject
    many = language == "en" and rng.random() < P_PLURAL and meta["subgroup"].startswith(PLURAL_GROUPS)
    subject = plural(subject) if many and is_counted(subject) else subject
    if rng.random() < natural:
        text = _sentence(subject, style, color, background, language, int(rng.integers(len(SENTENCES[language]))))
    else:
        text = _list(subject, style, color, background, language)
    if language == "zh" or rng.random() >= P_CAPITALS:
        return text
    return (text[0].upper() + text[1:], string.capwords(text), text.upper())[rng.integers(3)]


def sentence(meta: dict, color: str | None = None, background: str | None = None, language: str = "en") -> str:
    """The caption as a plain sentence that names everything: "a pink butterfly under the night sky, noto style"."""
    return _sentence(subject_name(meta, language), meta["style"], color, background, language)


def _list(subject: str, style: str | None, color: str | None, background: str | None, language: str) -> str:
    """The parts one after the other, with commas between."""
    zh = language == "zh"
    if color:
        subject = f"{WORDS_ZH[color]}的{subject}" if zh else f"{color} {subject}"
    parts = [subject, style + ("风格" if zh else " style")] if style else [subject]
    if background:
        plain = PLAIN[background][1] + "背景" if background in PLAIN else SCENES[background]
        parts.append(plain if zh else background + " background" * (background in PLAIN))
    return ("，" if zh else ", ").join(parts)


def _sentence(
    subject: str, style: str | None, color: str | None, background: str | None, language: str, form: int = 0
) -> str:
    """The parts in one of the SENTENCES of a language."""
    place = PLACES[background] if background else None
    if language == "zh":
        words = {
            "it": (WORDS_ZH[color] if color else "") + subject,
            "one": measured(subject, f"{WORDS_ZH[color]}的" if color else ""),
            "place": f"{place[1]}的" if place else "",
            "style": f"，{style}风格" if style else "",
        }
    else:
        it = f"{color} {subject}" if color else subject
        words = {
            "it": it,
            "one": with_article(it) if is_counted(subject) else it,
            "place": f" {place[0]}" if place else "",
            "style": f", {style} style" if style else "",
        }
        if form == 4 and style:
            words["style"] = f" in {style} style"
    return SENTENCES[language][form].format(**words)
