"""text-pixel as users meet it: any text is drawn or answered in one sentence, and the card's figures hold."""

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.app.generate import draw_pictures, draw_prompts, prompt_note
from course_utils.data import FIRST_STYLES, to_tensor
from course_utils.errors import InputError
from course_utils.evaluation import report
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment
from course_utils.evaluation.prompts import fixed_prompts
from course_utils.recipes import text_pixel as recipe
from course_utils.systems.text_pixel import SCHEDULE, SIZE, TextPixel, tokenize

QUICK = {"system": "text-pixel", "steps": 1, "count": 1, "device": "cpu"}


@pytest.mark.parametrize(
    "prompt",
    [
        "🦋",
        "🦋🌈🔥",
        "قطة سوداء",
        "1234",
        "!?",
        "x" * 1000,
        "cat\x00dog\n\tbird",
        "<|endoftext|>",
        "A VERY LOUD CAT",
        " café ",
        "蝴蝶" * 300,
    ],
)
def test_any_text_is_drawn(prompt):
    picture = draw_pictures(prompt=prompt, **QUICK)
    assert picture.shape == (1, 32, 32, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("prompt", [None, b"cat", 3, ["cat"], "", "   ", "x" * 10_000])
def test_what_is_no_prompt_gets_one_sentence(prompt):
    with pytest.raises(InputError) as error:
        draw_pictures(prompt=prompt, **QUICK)
    assert "prompt" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_language_is_drawn_with_a_word_of_warning():
    for prompt in ("قطة سوداء", "🦋", "кошка"):
        assert "English and Chinese" in prompt_note("text-pixel", prompt)
    for prompt in ("rabbit", "蝴蝶", "butterfly 🦋"):
        assert prompt_note("text-pixel", prompt) is None
    assert '"café"' in prompt_note("text-pixel", "café 🦋") and "--lora xp7" in prompt_note("text-pixel", "XP7汽车")


def test_the_prompt_the_seed_and_the_language_decide():
    def drawn(prompt, **options):
        return draw_pictures(prompt=prompt, **{**QUICK, "steps": 8, "count": 2, **options}).astype(int)

    red, again, blue = drawn("red apple, white background"), drawn("red apple, white background"), drawn("blue fish")
    assert np.abs(red - again).max() <= 1
    assert np.abs(red - blue).mean() > 5 and np.abs(red - drawn("red apple, white background", seed=1)).mean() > 5
    full, plain = (drawn(p) for p in ("粉色的蝴蝶，noto风格，蓝天，草地", "粉色的蝴蝶,noto风格,蓝天,草地"))
    assert np.abs(full - plain).max() <= 1  # both commas are one
    assert np.abs(drawn("cat", negative="dog") - drawn("cat")).mean() > 0.5
    one, three = drawn("cat", count=1), drawn("cat", count=3)
    assert np.abs(one[0] - three[0]).max() <= 1


def test_a_batch_is_two_captions_of_the_same_pictures():
    first, again = (recipe.batch(torch.Generator().manual_seed(4), 12) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert first["x0"].shape == (12, 3, SIZE, SIZE) and first["x0"].abs().max() <= 1
    assert len(first["ids"]) == len(first["translation"]) == 12 and not torch.equal(first["ids"], first["translation"])
    known = set(recipe.emoji().column("concept"))
    assert len(known) == 64 and {"butterfly", "automobile", "cat face"} <= known


def test_translation_loss_is_low_for_pairs_and_log_n_for_chance():
    vectors = torch.eye(16)
    assert recipe.translation_loss(vectors, vectors) < 1e-4
    assert recipe.translation_loss(vectors, vectors.roll(1, 0)) > 10
    same = torch.ones(16, 4)
    assert abs(float(recipe.translation_loss(same, same)) - np.log(16)) < 1e-5


def test_one_step_of_the_recipe_changes_every_weight():
    torch.manual_seed(0)
    model = TextPixel()
    with torch.no_grad():
        model.unet.unet.add_embedding.image_norm.weight.fill_(0.1)  # silent at the start, so nothing flows behind it
    recipe.loss(model, recipe.batch(torch.Generator().manual_seed(0), 8), torch.Generator().manual_seed(1)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_network_takes_any_noise_level_the_recipe_draws():
    model = TextPixel().eval()
    ids, mask = tokenize(["pink butterfly", "蝴蝶"])
    t = torch.tensor([0, SCHEDULE.num_steps - 1])
    with torch.no_grad():
        answer, first, second = model(torch.randn(2, 3, SIZE, SIZE), t, ids, mask, ids)
    assert answer.shape == (2, 3, SIZE, SIZE) and torch.equal(first, second) and first.shape == (2, 128)


@pytest.mark.slow
def test_the_card_tells_what_the_evaluator_says():
    metrics = checkpoints.card("text-pixel")["metrics"]
    prompts = fixed_prompts("en", 100, concepts=report.concepts("text-pixel"), styles=FIRST_STYLES)
    pictures = draw_prompts("text-pixel", [p.text for p in prompts], steps=12, guidance=1.5, device="cpu")
    said = alignment(load_evaluator(), to_tensor(pictures), prompts)
    for key, share in said.items():
        assert abs(share - metrics["seen, English, 100"][key]) < 0.05, key
    text = report.table({"seen": said})
    assert len(text.splitlines()) == 2 and str(said["concept"]) in text
