"""Composed examples: every caption true of its pixels, held-out pairs never drawn, same seed same bytes, fast."""

import hashlib
import re

import numpy as np
import pytest

from course_utils.data import FIRST_STYLES, STYLES, load_emoji, load_scenes, load_splits
from course_utils.datasets.captions import (
    LANGUAGES,
    PLACES,
    sentence,
)
from course_utils.datasets.compose import (
    BACKGROUNDS,
    COLORS,
    NAMES_COLOR,
    PLAIN,
    SCENES,
    WORDS_ZH,
    Composer,
    caption,
    dominant_color,
    recolor,
)
from course_utils.datasets.nouns import is_counted, measured, other_words, plural, subject_name, with_article
from course_utils.errors import DataError


@pytest.fixture(scope="module")
def composer():
    return Composer(load_emoji(64))


def find(composer, concept, style="noto"):
    return next(i for i, m in enumerate(composer.emoji.meta) if (m["concept"], m["style"]) == (concept, style))


def share_of_right_words(composer, n, seed):
    """Of the examples that state a colour: how many show it, measured on the composed pixels of the subject."""
    batch = composer.compose(n, seed)
    stated = [i for i, color in enumerate(batch.attributes["color"]) if color]
    right = sum(dominant_color(batch.images[i], batch.masks[i]) == batch.attributes["color"][i] for i in stated)
    return right / len(stated), len(stated)


@pytest.mark.parametrize(("size", "enough"), [(64, 0.99), (32, 0.98), (16, 0.96)])  # of 12 pixels, a third are edges
def test_the_colour_word_is_right_in_pixels(size, enough):
    composer = Composer(load_emoji(size, split="all"), p_color=0.8)
    share, count = share_of_right_words(composer, 1600, seed=1)
    print(f"{size} px: {100 * share:.2f} % of {count} colour words right")
    assert count > 900 and share >= enough


def test_dominant_color_of_plain_patches():
    patches = {
        "red": (220, 30, 30),
        "orange": (255, 140, 20),
        "yellow": (255, 220, 50),
        "green": (60, 180, 70),
        "blue": (50, 110, 220),
        "purple": (130, 70, 200),
        "pink": (255, 150, 190),
        "brown": (130, 80, 40),
        "black": (20, 20, 20),
        "white": (250, 250, 250),
        "grey": (140, 140, 145),
    }
    opaque = np.full((8, 8), 255, dtype=np.uint8)
    for word, rgb in patches.items():
        assert dominant_color(np.full((8, 8, 3), rgb, dtype=np.uint8), opaque) == word
    half = np.full((8, 8, 3), patches["red"], dtype=np.uint8)
    half[4:] = patches["green"]
    assert dominant_color(half, opaque) is None  # no colour leads
    half_seen = np.where(np.arange(8)[:, None] < 4, 255, 0).astype(np.uint8).repeat(8, axis=1)
    assert dominant_color(half, half_seen) == "red"  # the invisible half has no vote
    assert dominant_color(half, np.zeros_like(opaque)) is None


def test_known_natural_colours():
    natural = {(m["concept"], m["style"]): m["color"] for m in load_emoji(64, split="all").meta}
    expected = {"tomato": "red", "banana": "yellow", "cucumber": "green", "pig face": "pink", "eggplant": "purple"}
    assert {c: natural[c, "twemoji"] for c in expected} == expected


def test_recolor_leaves_other_hues_and_alpha_alone():
    picture = np.zeros((8, 8, 4), dtype=np.uint8)
    picture[:6], picture[6:] = (220, 30, 30, 255), (60, 180, 70, 200)  # a red flower on a green stem
    picture[0, 0] = (255, 255, 255, 255)  # a highlight
    for color in COLORS:
        out = recolor(picture, color)
        assert dominant_color(out[..., :3], out[..., 3]) == color
        assert (out[6:] == picture[6:]).all() and (out[0, 0] == 255).all() and (out[..., 3] == picture[..., 3]).all()


def test_the_recolor_table_is_what_the_code_gives(composer):
    for i in range(0, len(composer.emoji), 41):
        rgba, meta = composer.emoji.rgba[i], composer.emoji.meta[i]
        for color in meta["recolors"]:
            out = recolor(rgba, color)
            assert dominant_color(out[..., :3], out[..., 3]) == color, (meta["concept"], meta["style"])


def test_held_out_pairs_are_never_drawn():
    """No picture has such a colour to draw from; 20,000 draws give none; no caption of 2,000 speaks of one."""
    composer = Composer(load_emoji(16), p_color=0.9)
    held = {tuple(pair) for pair in load_splits()["held_out_colors"]}
    for colors, natural, meta in zip(composer.colors, composer.natural, composer.emoji.meta, strict=True):
        assert not {(color, meta["concept"]) for color in (*colors, natural)} & held
    rng = np.random.default_rng(3)
    rows = [composer._choose(rng)[0] for _ in range(20_000)]  # what compose() paints and captions, row by row
    drawn = {(row["color"], composer.emoji.meta[row["index"]]["concept"]) for row in rows}
    batch = composer.compose(2000, seed=3)
    drawn |= set(zip(batch.attributes["color"], batch.attributes["concept"], strict=True))
    assert len(drawn) > 3000 and not drawn & held
    assert ("pink", "butterfly") not in drawn and ("blue", "butterfly") in drawn
    pink = re.compile("pink butterfl|粉色的?蝴蝶(?!结)")  # 蝴蝶结: a bow
    assert not any(pink.search(text.lower()) for text in batch.captions)
    assert "3d" not in batch.attributes["style"]


def test_every_held_out_pair_can_be_asked_for(composer):
    index = find(composer, "butterfly")
    picture = composer.render(index, "pink", "white")
    assert dominant_color(picture, (picture.min(axis=-1) < 240).astype(np.uint8) * 255) == "pink"
    for color, concept in load_splits()["held_out_colors"]:
        pictures = [m for m in composer.emoji.meta if m["concept"] == concept]
        assert any(color in m["recolors"] for m in pictures) and all(m["color"] != color for m in pictures)


def test_same_seed_same_bytes(composer):
    one, two, other = composer.compose(64, 5), composer.compose(64, 5), composer.compose(64, 6)
    assert one.images.tobytes() == two.images.tobytes() and one.captions == two.captions
    assert one.attributes == two.attributes and one.masks.tobytes() == two.masks.tobytes()
    assert one.images.tobytes() != other.images.tobytes() and one.captions != other.captions
    assert (composer.render(9, seed=1) == composer.render(9, seed=1)).all()


def test_captions_say_what_is_there(composer):
    batch = Composer(composer.emoji, p_omit=0, p_tags=0, natural=0).compose(1000, seed=2)
    for k, text in enumerate(batch.captions):
        a = {key: values[k] for key, values in batch.attributes.items()}
        meta = composer.emoji.meta[a["index"]]
        assert (meta["concept"], meta["style"]) == (a["concept"], a["style"])
        if a["language"] == "en":
            place = a["background"] + (" background" if a["background"] in PLAIN else "")
            expected = f"{a['color'] + ' ' if a['color'] else ''}{meta['name_en']}, {a['style']} style, {place}"
            assert text == expected
        else:
            assert meta["name_zh"] in text and f"\uff0c{a['style']}风格\uff0c" in text and "," not in text
            assert text.startswith(f"{WORDS_ZH[a['color']]}的") if a["color"] else not re.match("^.色的", text)
            assert text.endswith(SCENES.get(a["background"]) or PLAIN[a["background"]][1] + "背景")
    assert set(batch.attributes["language"]) == {"en", "zh"}
    assert set(batch.attributes["background"]) == set(BACKGROUNDS)


def test_the_caption_of_the_brief(composer):
    meta = composer.emoji.meta[find(composer, "butterfly")]
    assert caption(meta, "pink", "blue sky and grass") == "pink butterfly, noto style, blue sky and grass"
    assert caption(meta, "pink", "blue sky and grass", "zh") == "粉色的蝴蝶\uff0cnoto风格\uff0c蓝天\uff0c草地"
    assert caption(meta) == "butterfly, noto style"
    face = composer.emoji.meta[find(composer, "face without mouth", "twemoji")]
    assert caption(face, "blue", language="zh") == "蓝色的沉默表情\uff0ctwemoji风格"


def test_parts_are_left_out_and_tags_stand_in(composer):
    meta = composer.emoji.meta[find(composer, "butterfly")]
    rng = np.random.default_rng(0)
    seen = {caption(meta, None, "snow", "en", rng, p_omit=0.5, p_tags=0.5, natural=0) for _ in range(200)}
    assert {"butterfly", "butterfly, snow", "butterfly, noto style", "butterfly, noto style, snow"} < seen
    assert any("insect" in text for text in seen)
    assert all("butterfly" in caption(meta, "red", "snow", "en", rng, 0, 1, natural=0) for _ in range(50))


def test_no_caption_contradicts_a_colour():
    """A subject called by a colour ("red apple"), in either language, is neither repainted nor called so twice."""
    composer = Composer(load_emoji(16, split="all"))
    for meta, colors, natural in zip(composer.emoji.meta, composer.colors, composer.natural, strict=True):
        if re.search(r"\b(red|green|blue|black|white|orange) ", meta["name_en"]):
            assert colors == [] and natural is None
    batch = Composer(composer.emoji, p_tags=1, p_color=0, p_omit=0, natural=0).compose(2000, 1)
    from_tags = [text for text, color in zip(batch.captions, batch.attributes["color"], strict=True) if color is None]
    subjects = [re.split(", |\uff0c", text)[0] for text in from_tags]
    assert len(subjects) > 1000 and not [s for s in subjects if NAMES_COLOR.search(s)]


OLD_FORM = {  # SHA-256 of 256 captions, and of their pictures and masks, as the shipped models saw them
    "pixel": (
        {"p_color": 0.4, "p_background": 0.4, "min_scale": 1.0, "p_omit": 0.05, "p_tags": 0.3},
        ("2179ec0695da4e10", "2ff5012b64c990ec"),
    ),
    "default": ({"p_omit": 0.1}, ("03fbe9df00316a50", "2b40d6a3b800ad0e")),
}


@pytest.mark.parametrize("name", OLD_FORM)
def test_what_shipped_models_learnt_from_is_made_again(name):
    emoji = load_emoji(64, FIRST_STYLES, split="all")
    wanted = set(sorted(set(emoji.column("concept")))[::17])
    index = [i for i, meta in enumerate(emoji.meta) if meta["concept"] in wanted]
    index.sort(key=lambda i: (emoji.meta[i]["style"], emoji.meta[i]["concept"]))
    options, expected = OLD_FORM[name]
    batch = Composer(emoji.select(np.array(index)), natural=0, **options).compose(256, seed=6)
    made = ("\n".join(batch.captions).encode(), batch.images.tobytes() + batch.masks.tobytes())
    assert tuple(hashlib.sha256(part).hexdigest()[:16] for part in made) == expected


def shown_words(text):
    """A caption without its style and background phrases, in lower case."""
    text = text.lower()
    for name, (english, chinese) in sorted(PLACES.items(), key=lambda item: -len(item[0])):
        for phrase in (
            english,
            chinese + "的",
            f", {name} background",
            f", {name}",
            f"，{PLAIN[name][1]}背景" if name in PLAIN else f"，{SCENES[name]}",
        ):
            text = text.replace(phrase, "")
    return re.sub(r",? (?:in )?\w+ style$|，\w+风格$", "", text.strip()).strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_natural_captions_are_true_and_well_formed(language):
    composer = Composer(load_emoji(16), languages=(language,), natural=0.6, p_tags=0.3, p_color=0.6)
    rng, sentences = np.random.default_rng(7), 0
    for _ in range(3000):
        row, _ = composer._choose(rng)
        meta = composer.emoji.meta[row["index"]]
        text = caption(meta, row["color"], row["background"], language, rng, p_tags=0.3, natural=0.6)
        low, place = text.lower(), PLACES[row["background"]][language == "zh"]
        sentences += place in low
        assert "  " not in text and text == text.strip() and "{" not in text and ",," not in text, text
        others = {style for style in STYLES if style != meta["style"]}
        assert not any(f"{style} style" in low or f"{style}风格" in low for style in others), text
        away = [phrase[language == "zh"] for name, phrase in PLACES.items() if name != row["background"]]
        assert not any(phrase in low for phrase in away), text
        names = [subject_name(meta, language), *other_words(meta, language)]
        spoken = [name.lower() for name in names] + [plural(name).lower() for name in names]
        assert any(name in low for name in spoken), (text, names)
        said = shown_words(text)
        if row["color"]:
            assert (row["color"] if language == "en" else WORDS_ZH[row["color"]]) in said, text
        elif not NAMES_COLOR.search(meta[f"name_{language}"]):
            assert not NAMES_COLOR.search(said), (text, said)
        if language == "en":
            assert not re.search(r"\ba (?!ewe|euro|one)(?:[aeio]|umb|unam|ups)|\ban (?![aeiou]|hour|x-ray)", low), text
            assert not re.search(r"\b(?:a|an) (?:\w+ )?(?:grapes|bread|sunglasses|o’clock)\b", low), text
    assert 500 < sentences < 1800


def test_sentences_of_the_brief(composer):
    butterfly = composer.emoji.meta[find(composer, "butterfly")]
    assert sentence(butterfly, "pink", "night sky") == "a pink butterfly under the night sky, noto style"
    assert sentence(butterfly, "pink", "snow", "zh") == "雪地里的粉色蝴蝶，noto风格"
    rng = np.random.default_rng(0)
    said = {caption(butterfly, "blue", "snow", lang, rng, natural=1) for lang in LANGUAGES for _ in range(400)}
    assert {
        "a blue butterfly in the snow",
        "a drawing of a blue butterfly in the snow",
        "雪地里的一只蓝色的蝴蝶",
        "一张雪地里的蓝色蝴蝶的图片",
        "blue butterfly",
        "a blue butterfly in noto style in the snow",
    } < said
    assert set(PLACES) == set(BACKGROUNDS)


def test_style_and_background_are_left_out_in_a_third(composer):
    text = Composer(composer.emoji, p_tags=0).compose(1500, seed=3).captions
    named = np.mean(["style" in t.lower() or "风格" in t for t in text])
    assert abs(named - 0.65) < 0.05


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("wolf", "wolves"),
        ("mouse", "mice"),
        ("sheep", "sheep"),
        ("goose", "geese"),
        ("fox", "foxes"),
        ("dog", "dogs"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("cherry blossom", "cherry blossoms"),
        ("ox", "oxen"),
        ("tropical fish", "tropical fish"),
        ("cockroach", "cockroaches"),
        ("maple leaf", "maple leaves"),
        ("potato", "potatoes"),
        ("nest with eggs", "nests with eggs"),
        ("T-Rex", "T-Rexes"),
    ],
)
def test_plurals(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("noun", "text"),
    [
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("hourglass", "an hourglass"),
        ("ewe", "a ewe"),
        ("orange car", "an orange car"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("x-ray", "an x-ray"),
        ("umbrella", "an umbrella"),
        ("house", "a house"),
        ("hippopotamus", "a hippopotamus"),
    ],
)
def test_articles(noun, text):
    assert with_article(noun) == text and is_counted(noun)


@pytest.mark.parametrize("noun", ["grapes", "bread", "two o’clock", "sunglasses", "fork and knife", "french fries"])
def test_no_article(noun):
    assert not is_counted(noun)


def test_measure_words():
    pairs = {
        "熊猫": "一只熊猫",
        "热带鱼": "一条热带鱼",
        "汽车": "一辆汽车",
        "飞机": "一架飞机",
        "玫瑰": "一朵玫瑰",
        "礼帽": "一顶礼帽",
        "两颗心": "两颗心",
        "寿司": "寿司",
        "墨镜": "一副墨镜",
        "雨伞": "一把雨伞",
    }
    assert {noun: measured(noun, "") for noun in pairs} == pairs
    assert measured("猫", "红色的") == "一只红色的猫"


def test_composition_of_the_picture(composer):
    batch = composer.compose(200, seed=8)
    assert batch.images.shape == (200, 64, 64, 3) and batch.images.dtype == np.uint8
    assert batch.masks.shape == (200, 64, 64)
    scenes = load_scenes(64)
    for image, mask, place in zip(batch.images, batch.masks, batch.attributes["background"], strict=True):
        outside = image[mask == 0]
        if place in PLAIN:
            assert (outside == PLAIN[place][0]).all()
        else:
            assert any((scene[mask == 0] == outside).all() for scene in scenes[place])
        assert mask.any()


def test_subjects_stand_out_from_every_background(composer):
    """Even a black top hat at night: the subject differs from what is behind it by 25 of 255 levels or more."""
    for concept, style in (("top hat", "noto"), ("spider", "twemoji"), ("snowman", "fluent"), ("bat", "noto")):
        index = find(composer, concept, style)
        for place in SCENES:
            empty = np.median(load_scenes(64)[place], axis=0)
            full = composer.render(index, None, place, seed=4).astype(float)
            changed = np.abs(full - empty).mean(axis=-1)
            assert np.sort(changed.ravel())[-300:].mean() > 25, (concept, place)


def test_large_sizes_and_one_language():
    composer = Composer(load_emoji(128, styles=("noto",)), size=256, languages=("zh",), p_background=1, p_color=0)
    batch = composer.compose(4, 0)
    assert batch.images.shape == (4, 256, 256, 3) and set(batch.attributes["language"]) == {"zh"}
    assert "white" not in batch.attributes["background"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.render(find(c, "red apple"), "blue"), "A blue red apple (noto) does not come out right"),
        (lambda c: c.render(0, "ultraviolet"), "choose from"),
        (lambda c: c.render(0, background="moon"), "Unknown background 'moon': choose from white, light blue"),
        (lambda c: Composer(c.emoji, languages=("fr",)), "languages from ('en', 'zh')"),
        (lambda c: Composer(c.emoji, languages=()), "languages from ('en', 'zh')"),
        (lambda c: Composer(c.emoji.select(lambda m: False)), "A Composer needs emoji (got 0)"),
        (lambda c: Composer(c.emoji, size=100), "Unknown size 100"),
    ],
)
def test_bad_requests_get_one_sentence(composer, call, words):
    with pytest.raises(DataError) as error:
        call(composer)
    assert words in str(error.value) and "\n" not in str(error.value)
