"""What systems are asked for beside the fixed list: names alone, styles never seen on a thing, whole sentences."""

import pytest

from course_utils.data import FIRST_STYLES, FLAT_STYLES, GROUPS, load_emoji, load_splits
from course_utils.datasets.captions import sentence
from course_utils.datasets.nouns import subject_name
from course_utils.errors import DataError
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts, held_out_prompts, held_out_style_prompts

TEST = {tuple(pair) for pair in load_splits()["test_pairs"]}
HELD = {tuple(pair) for pair in load_splits()["held_out_colors"]}


def metas(split):
    """What is known of the pictures of a split: {(concept, style): meta}."""
    return {(meta["concept"], meta["style"]): meta for meta in load_emoji(32, FLAT_STYLES, split=split).meta}


# ------------------------------------------------------------------ names alone
def test_bare_prompts_name_the_things_of_the_fixed_ones_and_nothing_else():
    bare, fixed = bare_prompts(), fixed_prompts()
    assert [p.concept for p in bare] == [p.concept for p in fixed] and len(bare) == 100
    assert {(p.style, p.color, p.background) for p in bare} == {("", None, "")}
    assert bare == bare_prompts() and bare_prompts(n=30) == bare[:30] and bare_prompts(seed=1) != bare


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_bare_prompt_is_the_name_in_its_language(language):
    known = {meta["concept"]: meta for meta in load_emoji(32, FLAT_STYLES).meta}
    for prompt in bare_prompts(language):
        assert prompt.text == subject_name(known[prompt.concept], language)
        assert "," not in prompt.text and "，" not in prompt.text


def test_bare_prompts_of_some_concepts_and_styles():
    few = bare_prompts(n=6, concepts={"owl", "butterfly"}, styles=FIRST_STYLES)
    assert {p.concept for p in few} == {"owl", "butterfly"} and len(few) == 6


# ------------------------------------------------------------------ a style never shown on that thing
def test_held_out_style_prompts_are_test_pairs():
    prompts = held_out_style_prompts()
    assert len(prompts) == 100 and all((p.concept, p.style) in TEST for p in prompts)
    assert not {(p.concept, p.style) for p in fixed_prompts()} & TEST
    assert all(0 < sum(p.style == style for p in prompts) < 40 for style in FLAT_STYLES)
    known = metas("test")
    groups = {known[p.concept, p.style]["group"] for p in prompts}
    assert groups == set(GROUPS)
    assert not {(p.color, p.concept) for p in prompts} & HELD, "one surprise at a time"


def test_held_out_style_prompts_agree_across_languages_and_forms():
    english, chinese = held_out_style_prompts("en"), held_out_style_prompts("zh")
    assert [p[1:] for p in english] == [p[1:] for p in chinese]
    told = held_out_style_prompts("en", form="sentence")
    assert [p[1:] for p in english] == [p[1:] for p in told] and english != told


# ------------------------------------------------------------------ sentences
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_sentence_asks_for_the_same_as_the_list(language):
    known, listed = metas("train"), fixed_prompts(language)
    told = fixed_prompts(language, form="sentence")
    assert [p[1:] for p in told] == [p[1:] for p in listed]
    assert sum(a.text != b.text for a, b in zip(told, listed, strict=True)) > 90
    for prompt in told:
        meta = known[prompt.concept, prompt.style]
        assert prompt.text == sentence(meta, prompt.color, prompt.background, language)
        assert prompt.text == prompt.text.strip() and "  " not in prompt.text


def test_held_out_colours_are_asked_for_in_sentences_too():
    told = held_out_prompts(form="sentence")
    assert {(p.color, p.concept) for p in told} == HELD
    assert any("pink butterfly" in p.text for p in told)


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize("make", [bare_prompts, held_out_style_prompts, fixed_prompts])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"language": "klingon"}, "language 'klingon'"),
        ({"n": 0}, "not 0"),
        ({"concepts": {"unicorn dentist"}}, "concepts that training shows"),
    ],
)
def test_what_makes_no_sense_is_refused(make, options, word):
    with pytest.raises(DataError, match=word):
        make(**options)


@pytest.mark.parametrize("make", [held_out_style_prompts, fixed_prompts, held_out_prompts])
def test_an_unknown_form_is_refused(make):
    with pytest.raises(DataError, match="form 'poem'"):
        make(form="poem")
