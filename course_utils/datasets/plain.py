"""Prompts as people write them, brought to the words of our captions: "a photo of two pandas in the snow!" -> "two
panda, snow", 一隻紅色的熊貓 -> 红色的熊猫. What is a caption already stays as it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from course_utils.data import STYLES, load_names
from course_utils.datasets.captions import PLAIN, SCENES, WORDS_ZH
from course_utils.datasets.nouns import MEASURES, UNCOUNTED, plural, subject_name

HAN = "\u3400-\u9fff"
IS_HAN = re.compile(f"[{HAN}]")
LONGEST = 9  # words of a phrase, or characters of a Chinese one; ours have fewer


class Reading(NamedTuple):
    """text: what the model gets; parts: what stands between its commas, each as the phrases it consists of."""

    text: str
    parts: tuple[tuple[str, ...], ...]


INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")


def key(text: str) -> str:
    """A text as phrases are compared: lower case, signs of one width, one apostrophe."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().replace("’", "'").split())


# ------------------------------------------------------------------ the phrases of our captions
STYLE_WORDS = {key(form.format(style)) for style in STYLES for form in ("{} style", "{}风格")}
PLACE_WORDS = {
    **{f"{name} background": name for name in PLAIN},
    **{f"{zh}背景": name for name, (_, zh) in PLAIN.items()},
    **{name: name for name in SCENES},
    **{part: name for name, zh in SCENES.items() for part in zh.split("，")},
}


@lru_cache(maxsize=1)
def phrases() -> dict[str, frozenset[str]]:
    """Every phrase of our captions -> the concepts of which it is a name or a tag (none: colour, style, place)."""
    found: dict[str, set[str]] = {word: set() for word in (*WORDS_ZH, *WORDS_ZH.values(), *STYLE_WORDS, *PLACE_WORDS)}
    for row in load_names():
        names = (row["name_en"], row["name_zh"], subject_name(row, "zh"))
        for word in (*names, *row["tags_en"], *row["tags_zh"]):
            found.setdefault(key(word), set()).add(row["concept"])
    return {phrase: frozenset(concepts) for phrase, concepts in found.items()}


@lru_cache(maxsize=1)
def plurals() -> dict[str, str]:
    """ "pandas" -> "panda": of every English phrase, and of the last word of each."""
    words = {word for phrase in phrases() if phrase.isascii() for word in (phrase, phrase.split()[-1])}
    single = sorted(word for word in words - UNCOUNTED if len(word) > 2 and word[-1].isalpha())
    return {plural(word): word for word in single}


def one_of_many(phrase: str, own: Collection[str]) -> str | None:
    """A phrase of ours, or what a plural speaks of, if `own` has nothing but that; None where neither is ours."""
    single = plurals().get(phrase)
    if phrase in phrases() and (phrase in own or single not in own):
        return phrase
    return single


def cover(words: tuple[str, ...], known) -> tuple[str, ...] | None:
    """Cut words into phrases that are all known, the longest first; None where that cannot be."""
    if not words:
        return ()
    for end in range(min(len(words), LONGEST), 0, -1):
        rest = cover(words[end:], known) if (first := " ".join(words[:end])) in known else None
        if rest is not None:
            return first, *rest
    return None


# ------------------------------------------------------------------ English
THE = r"(?:an? |the |some )?"
MEDIUM = re.compile(r"\b(?:photo|photograph|picture|image|drawing|painting|illustration|icon|emoji)s? of\b")
# fmt: off
EMPTY = {"a", "an", "the", "some", "of", "in", "on", "at", "with", "by", "and", "is",
         "are", "this", "that", "there", "please", "draw", "paint", "show", "me", "my", "its"}
# fmt: on
SCENE_EN = {
    "blue sky and grass": "grass under (?:a|the) blue sky|(?:blue )?sky and grass|grass",
    "night sky": "night sky",
    "beach": "beach",
    "snow": "snow",
    "sea": "sea|ocean",
    "sunset": "sunset",
}
PLACE_EN = [
    *((re.compile(rf"\b(?:on|with|against|over) {THE}{name} background\b"), f"{name} background") for name in PLAIN),
    *((re.compile(rf"\b(?:on|in|at|under|by|near) {THE}(?:{form})\b"), name) for name, form in SCENE_EN.items()),
]
STYLE_EN = re.compile(rf"(?:\bin )?{THE}\b({'|'.join(STYLES)}) style\b")


def _english(text: str, own: Collection[str]) -> tuple[tuple[str, ...], list[str], list[str]]:
    """The phrases of a part without commas: (of the subject, style, place)."""
    for words in (text.split(), re.sub("^(?:an?|the) ", "", text).split()):
        whole = cover(tuple(words), phrases())
        placed = whole and EMPTY & set(whole) and any(pattern.search(text) for pattern, _ in PLACE_EN)
        if whole is not None and not placed and all(one_of_many(phrase, own) == phrase for phrase in whole):
            return whole, [], []
    text, styles, places = MEDIUM.sub(" ", text), [], []
    for pattern, place in PLACE_EN:
        if pattern.search(text):
            text, places = pattern.sub(" ", text, count=1), [*places, place]
    if found := STYLE_EN.search(text):
        text, styles = STYLE_EN.sub(" ", text, count=1), [f"{found[1]} style"]
    words, found, start = text.split(), [], 0
    while start < len(words):
        for end in range(min(len(words), start + LONGEST), start, -1):
            phrase = one_of_many(" ".join(words[start:end]), own)
            if phrase and not (end == start + 1 and phrase in EMPTY):
                found.append(phrase)
                break
        else:
            end = start + 1
            found += [words[start]] if words[start] not in EMPTY else []
        start = end
    return tuple(found), styles, places


# ------------------------------------------------------------------ Chinese
PLACE_ZH = {
    "蓝天，草地": "蓝天下的?草地|蓝天和?草地|草地|蓝天",
    "夜空": "夜空|星空",
    "沙滩": "沙滩|海滩",
    "雪地": "雪地|雪",
    "大海": "大海|海",
    "日落": "日落|夕阳",
    **{f"{zh}背景": f"{zh}的?背景" for _, zh in PLAIN.values()},
}
AT = "[上里下中时边前]"
STYLE_ZH = re.compile(rf"用?({'|'.join(STYLES)})风格的?")
MEASURE = re.compile(f"^[一1]?(?:{'|'.join(MEASURES)})(?=.)")
ONE_ZH = re.compile(f"^[一1](?:{'|'.join(MEASURES)})(?=.)")
MEDIUM_ZH = (
    re.compile(
        "^(?:请|帮我|给我)*(?:画|绘制|生成)(?:[一1]?[张幅副])?(?=.)|^[一1][张幅副](?=.*的(?:图片|照片|画|图|图画|图像)$)"
    ),
    re.compile("(?<=.)的(?:图片|照片|画|图画|图像|图)$"),
)
COLOR_ZH = {
    **{form: zh for zh in WORDS_ZH.values() for form in (zh, zh.removesuffix("色"))},
    "粉红色": "粉色", "粉红": "粉色", "橘色": "橙色", "咖啡色": "棕色", "褐色": "棕色", "金黄色": "黄色",
}  # fmt: skip
COLORED = re.compile(f"^({'|'.join(sorted(COLOR_ZH, key=len, reverse=True))})(的?)(.+)$")
LATIN = re.compile("[a-z0-9'.:-]+")
PARTICLES = frozenset("的了在和与是有着、")


@lru_cache(maxsize=1)
def simplified() -> dict[int, str]:
    """A table for `str.translate`: traditional characters -> the simplified ones of our captions."""
    lines = (Path(__file__).parent / "traditional.txt").read_text(encoding="utf-8").splitlines()
    pairs = "".join(line for line in lines if not line.startswith("#"))
    return {ord(pairs[i]): pairs[i + 1] for i in range(0, len(pairs), 2)}


def _caption_zh(text: str) -> tuple[str, ...] | None:
    """The phrases of what a Chinese caption has between its commas, 红色的熊猫, 动物、熊猫 or 夜空; None for others."""
    known, colored = phrases(), COLORED.match(text)
    if text not in known and colored and colored[1] in known and colored[2] and colored[3] in known:
        return colored[1], colored[3]
    tags = tuple(text.split("、"))
    return tags if all(tag in known for tag in tags) else None


def _segments(text: str) -> tuple[str, ...]:
    """Chinese has no spaces: the longest phrases of ours one after the other, and what lies between them."""
    known, found, start, gap = phrases(), [], 0, ""
    while start < len(text):
        latin = LATIN.match(text, start)
        ends = [latin.end()] if latin else range(min(len(text), start + LONGEST), start + 1, -1)
        end = next((end for end in ends if latin or text[start:end] in known), start + 1)
        word = text[start:end]
        if latin or len(word) > 1 or word in PARTICLES:
            found += [gap, "" if word in PARTICLES else word]
            gap = ""
        else:
            gap += word  # one sign alone is a word only if it stands between others
        start = end
    return tuple(part for part in (*found, gap) if part)


def _chinese(text: str, own: Collection[str]) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """A part without commas as (text of the subject, its phrases, style, place)."""
    styles, places, caption = [], [], _caption_zh(text)
    if caption:
        return text, caption, styles, places
    for pattern in MEDIUM_ZH:
        text = pattern.sub("", text)
    if found := STYLE_ZH.search(text):
        text, styles = STYLE_ZH.sub("", text, count=1), [f"{found[1]}风格"]
    for place, forms in PLACE_ZH.items():
        before = re.match(rf"^在?(?:{forms}){AT}的?(?=.)", text)
        after = re.search(rf"(?<=.)[站坐]?在(?:{forms}){AT}?$", text)
        if before or after:
            text, places = text[before.end() :] if before else text[: after.start()], [place]
            break
    text = ONE_ZH.sub("", text)
    if text not in own and (colored := COLORED.match(text)) and colored[3] in own:
        return f"{COLOR_ZH[colored[1]]}的{colored[3]}", (COLOR_ZH[colored[1]], colored[3]), styles, places
    return text, (text,) if text in phrases() else _segments(text), styles, places


# ------------------------------------------------------------------ both
SYNTAX = re.compile(r"<[^<>]*>|:\d+(?:\.\d+)?(?=\s*[)\]}])|[()\[\]{}*|~_#\\\"“”«»]")  # of other programs' prompts
BETWEEN = re.compile("[,.;!?。]+")


def _part(text: str, own: Collection[str]) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """A part without commas as (text of the subject, its phrases, style, place)."""
    if IS_HAN.search(text):
        return _chinese(text, own)
    subject, styles, places = _english(text, own)
    return " ".join(subject), subject, styles, places


def read(text: str, sentences: bool = False, own: Collection[str] | None = None) -> Reading:
    """What a prompt becomes, and of which phrases it consists; see `plain_prompt`.

    own: the phrases of one system (None: all of ours): "butterflies" is a nervous face's tag, and many butterflies for
    a system that was never shown that face.
    """
    text = (" ".join(INVISIBLE.sub(" ", text).split()) or text) if INVISIBLE.search(text) else text
    lower, own = key(text), phrases() if own is None else own
    parts = [part.strip() for part in lower.split(",") if part.strip()]
    whole = [_part(part, own) for part in parts]
    if [part[0] for part in whole] == parts and all(phrase in phrases() for part in whole for phrase in part[1]):
        return Reading(text, tuple(part[1] for part in whole))
    clean = " ".join(SYNTAX.sub(" ", lower.translate(simplified())).split())
    clean = re.sub(rf"(?<=[{HAN}，、])\s+(?=[{HAN}a-z0-9])|(?<=[a-z0-9])\s+(?=风格)", "", clean)
    made = [_part(part.strip(), own) for part in BETWEEN.split(clean) if part.strip()]
    subjects = [(said, found) for said, found, _, _ in made if said]
    later = [word for i in (2, 3) for part in made for word in part[i]]
    comma = "，" if IS_HAN.search(clean) else ", "
    plain = comma.join([*(said for said, _ in subjects), *later])
    told = tuple(found for _, found in subjects) + tuple((word,) for words in later for word in words.split("，"))
    if not plain or key(plain) == ", ".join(parts).replace("，", ","):
        return Reading(text, told)
    if sentences:
        clean = re.sub(r"\b(?:photo|photograph|image|painting|illustration|icon|emoji) of\b", "picture of", clean)
        return Reading(text if clean == lower else re.sub(r"\s+(?=,|$)|\s(?=\s)", "", clean).strip(), told)
    return Reading(plain, told)


def plain_prompt(text: str, sentences: bool = False) -> str:
    """A prompt in the words and the form of our captions, "a panda in the snow!" -> "panda, snow".

    Brackets, weights, articles, "a photo of", measure words and plurals go, traditional characters become simplified,
    a place or style in a sentence gets its comma. A caption comes back as it is, and so does what nothing is left of.
    sentences: for a model whose captions were sentences too, so that these stay.
    """
    return read(text, sentences).text
