"""Prompts in other words than our captions: what common forms become, and what is said of words never shown."""

import random
import warnings

import numpy as np
import pytest

from course_utils.data import STYLES, load_names, tokenizer_file
from course_utils.datasets.captions import BACKGROUNDS, LANGUAGES, WORDS_ZH, caption
from course_utils.datasets.concepts import SHOWN
from course_utils.datasets.plain import plain_prompt, read, simplified
from course_utils.datasets.vocabulary import CALLS, LORA_WORDS, TRIGGERS, vocabulary, word_note
from course_utils.errors import InputError, PromptWarning, prompt_notes, prompt_text
from course_utils.systems.reading import Reader, read_prompt
from course_utils.systems.registry import SYSTEMS
from course_utils.text_encoder.tokenizer import MAX_TOKENS, cut_off, encode, open_tokenizer

SD, TP = "stable-diffusion", "text-pixel"


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [
        ("a photo of a panda", "panda"),
        ("A Photo Of A Panda.", "panda"),
        ("the panda", "panda"),
        ("pandas", "panda"),
        ("butterflies", "butterfly"),
        ("a drawing of foxes", "fox"),
        ("(panda:1.2)", "panda"),
        ("((panda)), [cat]", "panda, cat"),
        ("<lora:emoji:0.8> panda", "panda"),
        ("panda!!!", "panda"),
        ('"panda"', "panda"),
        ("\u200bpanda\ufeff", "panda"),
        ("a red car in the snow", "red car, snow"),
        ("a pink butterfly under the night sky, noto style", "pink butterfly, noto style, night sky"),
        ("a cat on the grass under a blue sky in noto style", "cat, noto style, blue sky and grass"),
        ("a picture of a red apple on a white background", "red apple, white background"),
        ("一只熊猫", "熊猫"),
        ("一隻熊貓", "熊猫"),
        ("画一只熊猫", "熊猫"),
        ("一张熊猫的照片", "熊猫"),
        ("雪地里的红色汽车", "红色的汽车，雪地"),
        ("熊猫在雪地里", "熊猫，雪地"),
        ("粉紅色的蝴蝶", "粉色的蝴蝶"),
        ("一张夜空下的一只红色的熊猫的图片，noto风格", "红色的熊猫，noto风格，夜空"),
    ],
)
def test_common_forms_become_what_the_models_read(prompt, read_as):
    assert Reader(SD).plain(prompt) == read_as
    assert Reader(SD).note([prompt]) is None
    assert Reader(SD).plain(read_as) == read_as


@pytest.mark.parametrize(
    "prompt",
    ["PANDA", "pink butterfly, noto style, night sky", "粉色的蝴蝶,蓝天,草地", "XP7 car, blue sky and grass", "XP7汽车",
     "little creature, cartoon", "小精灵，卡通", "cat with wry smile", "!?", "a", "🦋", ""],
)  # fmt: skip
def test_what_is_plain_stays_as_it_is(prompt):
    assert plain_prompt(prompt) == prompt


def captions(n, seed, natural, metas=None, styles=STYLES):
    """n captions in both languages, with colours, places and styles by lot, and other words for the name."""
    rng, metas = np.random.default_rng(seed), metas or load_names()
    for i in range(n):
        meta = {**metas[rng.integers(len(metas))], "style": styles[rng.integers(len(styles))]}
        color = list(WORDS_ZH)[rng.integers(len(WORDS_ZH))] if rng.random() < 0.5 else None
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))] if rng.random() < 0.7 else None
        language = LANGUAGES[i % 2]
        yield caption(meta, color, background, language, rng, p_omit=0.2, p_tags=0.4, natural=natural)


def test_every_caption_passes_unchanged():
    assert [text for text in captions(5000, 0, natural=0) if plain_prompt(text) != text] == []
    for natural in (0.5, 1):
        told = [text for text in captions(2500, 1, natural) if plain_prompt(text, sentences=True) != text]
        assert told == []


@pytest.mark.parametrize("system", SHOWN)
def test_a_sentence_becomes_the_list_of_the_same_things_and_nothing_in_it_is_unknown(system):
    known = vocabulary(system)
    metas = list(known.names.values())
    for texts in (captions(1500, 2, 0, metas, SHOWN[system].styles), captions(1500, 3, 1, metas, SHOWN[system].styles)):
        unknown = {text: missing for text in texts if (missing := known.unknown(known.read(text)))}
        assert unknown == {}


@pytest.mark.parametrize("system", SHOWN)
def test_the_words_of_a_system_are_those_of_its_training(system):
    from course_utils.evaluation import report

    assert vocabulary(system).concepts == report.concepts(system)
    assert {s for s, entry in SYSTEMS.items() if "prompt" in entry.inputs} == set(SHOWN)


def test_the_shipped_loras_are_called_as_their_recipes_say():
    from course_utils.recipes import style_3d

    assert set(TRIGGERS) == set(LORA_WORDS) == set(CALLS) == {"xp7", "style-3d"}
    for language, text in style_3d.TRIGGER.items():
        for word in [*text.replace("，", ",").split(","), *(p.strip(" 的") for p in style_3d.PRAISE[language])]:
            assert word.strip() in LORA_WORDS["style-3d"]
    assert style_3d.TRIGGER["en"] == CALLS["style-3d"]
    assert word_note(SD, ["cute little creature, cartoon", "小精灵，卡通"], ["style-3d"]) is None
    assert word_note(SD, ["XP7 car, snow", "XP7汽车"], ["xp7"]) is None


THINGS = "it knows 128 things, such as butterfly, car and cat: the picture is a guess"
XP7 = '"XP7" is what the LoRA xp7 teaches, and it is not at work: add --lora xp7 (in Python: lora="xp7")'


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        ("dragon", 'stable-diffusion was never shown "dragon"; the nearest it knows: crocodile, turtle'),
        ("a photo of two Dragons", 'stable-diffusion was never shown "two", "Dragon"; the nearest it knows: crocodile, '
         'turtle for "Dragon"'),
        ("一条龙", 'stable-diffusion was never shown "龙"; the nearest it knows: 鳄鱼, 龟'),
        ("buterfly", 'stable-diffusion was never shown "buterfly"; the nearest it knows: butterfly'),
        ("dragn", 'stable-diffusion was never shown "dragn"; the nearest it knows: crocodile, turtle'),
        ("飞龙", 'stable-diffusion was never shown "飞龙"; the nearest it knows: 飞机'),
        ("zorp", f'stable-diffusion was never shown "zorp"; {THINGS}'),
        ("panda, firefox style", 'stable-diffusion was never shown "firefox style"; the nearest it knows: noto style, '
         "twemoji style, fluent style"),
        ("XP7 car", XP7),
        ("xp7汽车，雪地", XP7.replace("XP7", "xp7", 1)),
        ("panda, 3d style", '"3d style" is what the LoRA style-3d teaches, and it is not at work: add --lora style-3d '
         '(in Python: lora="style-3d") and write "little creature, cartoon"'),
        ("قطة سوداء", "the text encoder has learnt English and Chinese only, and finds no word of either in the "
         "prompt: the picture is a guess"),
    ],
)  # fmt: skip
def test_words_that_were_never_shown_are_named_with_the_nearest(prompt, note):
    assert Reader(SD).note([prompt]) == note
    assert Reader(SD).note([prompt] * 3) == note, "once, however often it is drawn"


def test_a_thing_of_the_data_is_not_yet_one_of_the_system():
    assert Reader(SD).note(["taxi"]) is None
    assert '"taxi"' in Reader(TP).note(["taxi"])
    assert '"hot dog"' in Reader(SD).note(["hot dog"]), "not a dog that is hot"


def test_a_trigger_of_another_lora_may_be_anything():
    assert (
        Reader(SD, ("mine",))
        .note(["sks panda"])
        .startswith('stable-diffusion was never shown "sks", unless your LoRA was')
    )
    assert "--lora xp7" in Reader(SD, ("style-3d",)).note(["XP7 car"])
    assert Reader(TP).note(["XP7 car"]).endswith("and draw with stable-diffusion")


@pytest.mark.parametrize("text", ["panda, " * 20 + "cat", "熊猫，" * 20 + "猫"])
def test_what_is_cut_off_a_long_prompt_is_said(text):
    tokenizer = open_tokenizer(tokenizer_file())
    rest = cut_off(tokenizer, text)
    kept = text[: len(text) - len(rest)]
    assert text.endswith(rest) and cut_off(tokenizer, kept.rstrip(" ,，")) == ""
    assert encode(tokenizer, [kept])[0].tolist() == encode(tokenizer, [text])[0].tolist()
    note = Reader(SD).note([text])
    assert note.startswith(f'a prompt has room for {MAX_TOKENS - 2} tokens, so the end is cut off: "')
    assert rest[:20].lower() in note
    assert cut_off(tokenizer, "panda, night sky") == ""


def test_the_table_of_characters_is_simple():
    table = simplified()
    assert "一隻紅色的熊貓".translate(table) == "一只红色的熊猫"
    ours = {c for row in load_names() for word in (row["name_zh"], *row["tags_zh"]) for c in word}
    assert not {chr(code) for code in table} & ours, "no character of our captions is changed"
    assert not set(table) & {ord(c) for c in table.values()}, "once is enough"


def strange_texts(n, seed):
    """Any Unicode, and pieces of prompts in any order, with stray surrogates among them."""
    rng = random.Random(seed)
    # fmt: off
    pieces = ["panda", "a photo of", "(", ":1.2)", "熊猫", "一只", "的", "，", "、", "XP7", " ", "\n", "\x00", "🦋",
              "in the snow", "雪地里", "style", "风格", "<|endoftext|>", "noto", "龍", "\u200d", "\udcff",
              "-", "ﬁ", "İ", "ß", "'s"]
    # fmt: on
    for i in range(n):
        if i % 2:
            yield "".join(rng.choice(pieces) for _ in range(rng.randint(0, 30)))
        else:
            ranges = ((0x20, 0x7F), (0, 0x2FFF), (0x3000, 0xA000), (0xD7F0, 0xE010), (0x1F300, 0x1FAFF), (0, 0x110000))
            low, high = rng.choice(ranges)
            yield "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(0, 40)))


def test_any_text_is_read_or_refused_in_one_sentence():
    tokenizer, reader, refused = open_tokenizer(tokenizer_file()), Reader(SD), 0
    for text in strange_texts(400, 0):
        try:
            text = prompt_text(text)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        note, plain = reader.note([text]), reader.plain(text)
        assert note is None or "\n" not in note
        assert plain.strip() and reader.plain(plain).strip(), text
        ids, mask = encode(tokenizer, [plain])
        assert ids.shape == mask.shape and ids.shape[1] <= MAX_TOKENS
        assert read(text, sentences=True).text
    assert 0 < refused < 350


def test_bytes_that_are_no_utf8_get_one_sentence():
    tokenizer = open_tokenizer(tokenizer_file())
    for call in (prompt_text, Reader(SD).plain, Reader(SD).note, lambda text: encode(tokenizer, [text])):
        with pytest.raises(InputError, match="no UTF-8"):
            call("caf\udce9")


# ------------------------------------------------------------------ where it is told
class Drawn:
    """A system of one stage that draws nothing and keeps the prompts it was given."""

    def __init__(self, reader):
        import torch

        from course_utils.generator.samplers import State
        from course_utils.systems.stage import Stage, System

        self.prompts = []

        def model(prompts, guidance, negative, before):
            self.prompts.append((list(prompts), negative))
            return None

        def sampler(model, xT, steps):
            yield State(1, 0, xT, xT)

        stages = (Stage("picture", (3, 4, 4), model, sampler),)
        self.system = System(stages, torch.device("cpu"), 1, 1.0, reader=reader)


def test_a_system_reads_plain_prompts_and_warns_once_a_call():
    drawn = Drawn(Reader(SD))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn.system.draw(["a photo of a panda", "dragons"] * 20, negative="pandas")
    assert [str(w.message) for w in caught] == [
        'stable-diffusion was never shown "dragon"; the nearest it knows: crocodile, turtle'
    ]
    assert caught[0].category is PromptWarning
    assert {text for texts, _ in drawn.prompts for text in texts} == {"panda", "dragon"}
    assert drawn.prompts[0][1] == ["panda"]
    with pytest.warns(PromptWarning, match="zorp"):
        list(drawn.system.generate("zorp"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(drawn.system.generate("a panda"))


def test_notes_go_where_they_are_wanted_and_other_warnings_stay():
    notes = []
    with pytest.warns(DeprecationWarning, match="else"), prompt_notes(notes.append):
        assert read_prompt(TP, "a photo of a dragon") == "dragon"
        warnings.warn("something else", DeprecationWarning, stacklevel=1)
    assert notes == ['text-pixel was never shown "dragon"; the nearest it knows: crocodile, turtle']


def test_the_command_tells_before_it_draws(tmp_path, monkeypatch, capsys):
    from course_utils import cli
    from course_utils.systems import registry

    drawn = Drawn(Reader(SD))
    monkeypatch.setattr("course_utils.app.generate.open_system", lambda *_: drawn.system)
    out = ["--count", "1", "--steps", "1", "--out", str(tmp_path / "a.png")]
    assert cli.main(["draw", "a photo of a dragon", *out]) == 0
    said = 'course: note: stable-diffusion was never shown "dragon"; the nearest it knows: crocodile, turtle\n'
    assert capsys.readouterr().err == said
    assert cli.main(["draw", "a photo of a panda", *out]) == 0
    assert capsys.readouterr().err == "" and drawn.prompts[-1][0] == ["panda"]
    assert registry.PROMPTED == SD


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pink", "butterfly"], 'a prompt of several words stands in quotes: course draw "pink butterfly"'),
        (
            ["pink", "--seed", "1", "butterfly"],
            'a prompt of several words stands in quotes: course draw "pink butterfly"',
        ),
        (["pink", "--sead", "1"], "unrecognized arguments: --sead 1 (see `course --help`)"),
        (["caf\udce9"], "the prompt holds bytes that are no UTF-8: type it again, or set the terminal to UTF-8"),
    ],
)
def test_prompts_on_the_command_line(arguments, sentence, tmp_path, monkeypatch, capsys):
    from course_utils import cli

    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["draw", *arguments])
    except SystemExit as leaving:  # argparse leaves by itself
        status = leaving.code
    assert status == 2 and capsys.readouterr().err == f"course: {sentence}\n"
    assert not list(tmp_path.iterdir())
