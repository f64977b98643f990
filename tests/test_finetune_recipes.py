"""The two LoRAs that come with the course: what their recipes show, what is shipped, and what they draw."""

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.app.generate import draw_pictures, draw_prompts
from course_utils.data import STYLES, load_splits, to_tensor
from course_utils.datasets.compose import BACKGROUNDS
from course_utils.datasets.xp7 import load_xp7
from course_utils.errors import CheckpointError, InputError
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.fidelity import similarity
from course_utils.evaluation.metrics import predict
from course_utils.finetune.lora import lora_parameters, lora_state
from course_utils.recipes import stable_diffusion, style_3d, xp7
from course_utils.recipes.style_3d import replace_style
from course_utils.training import train

QUICK = {"system": "stable-diffusion", "steps": 2, "count": 1, "device": "cpu"}


@pytest.fixture(scope="module", params=[xp7, style_3d], ids=["xp7", "style-3d"])
def recipe(request):
    return request.param.RECIPE


def test_a_batch_can_be_repeated_and_is_of_variance_one(recipe):
    first, again = (recipe.batch(torch.Generator().manual_seed(4), 16) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) and len(first[key]) == 16 for key in first)
    assert first["z"].shape == (16, 4, 16, 16) and 0.6 < float(first["z"].std()) < 1.5


def test_only_the_lora_learns_and_only_it_is_shipped(recipe):
    model = recipe.model()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in lora_parameters(model)}
    end = list(train(recipe, minutes=1e-4, weights=model.state_dict(), device="cpu"))[-1]
    assert all(torch.equal(end.model.get_parameter(name), p) for name, p in frozen.items())
    assert any(float(value.abs().max()) > 0 for key, value in lora_state(end.model).items() if "lora_B" in key)
    path = checkpoints.check(recipe.name)
    assert path.stat().st_size <= 3e6
    assert checkpoints.card(recipe.name)["parameters"] == sum(p.numel() for p in lora_parameters(model))


def test_the_3d_style_is_new_to_the_base_and_called_by_its_trigger():
    assert set(style_3d.emoji().column("style")) == {"3d"} and "3d" not in stable_diffusion.emoji().column("style")
    assert load_splits()["held_out_styles"] == ["3d"]
    assert {"butterfly", "dog", "cat"} <= set(style_3d.emoji().column("concept"))
    assert replace_style("pink butterfly, noto style, sea", "en") == "pink butterfly, little creature, cartoon, sea"
    assert replace_style("粉色的蝴蝶，noto风格，大海", "zh") == "粉色的蝴蝶，小精灵，卡通，大海"
    rng, row = np.random.default_rng(0), {"index": 0, "color": "pink", "background": "sea"}
    captions = [style_3d.write_caption(row, rng) for _ in range(200)]
    assert not any("3d" in text for text in captions) and 5 < captions.count("") < 40
    assert all(any(trigger in text for trigger in style_3d.TRIGGER.values()) for text in captions if text)


def test_a_lora_changes_the_drawing_and_only_stable_diffusion_takes_one(tmp_path):
    plain = draw_pictures(prompt="XP7 car, snow", **QUICK)
    by_name = draw_pictures(prompt="XP7 car, snow", lora="xp7", **QUICK)
    by_path = draw_pictures(prompt="XP7 car, snow", lora=checkpoints.CHECKPOINT_DIR / "xp7.safetensors", **QUICK)
    assert np.array_equal(by_name, by_path) and np.abs(plain.astype(int) - by_name).mean() > 2
    with pytest.raises(InputError, match="stable-diffusion and nothing else"):
        draw_pictures(prompt="XP7 car", lora="xp7", **{**QUICK, "system": "text-pixel"})
    with pytest.raises(CheckpointError, match="there is no"):
        draw_pictures(prompt="XP7 car", lora=tmp_path / "nothing.safetensors", **QUICK)
    with pytest.raises(CheckpointError):
        draw_pictures(prompt="XP7 car", lora="noise-predictor", **QUICK)


@pytest.mark.slow
def test_xp7_is_drawn_like_the_real_one_and_cars_stay_cars():
    evaluator, real = load_evaluator(), to_tensor(load_xp7("unseen").pictures)
    scenes = BACKGROUNDS[6:]

    def likeness(prompt, lora):
        texts = [f"{prompt}, {scene}" for scene in scenes for _ in range(2)]
        drawn = draw_prompts("stable-diffusion", texts, 12, guidance=2.0, lora=lora)
        return similarity(evaluator, to_tensor(drawn), real)

    assert likeness("XP7 car", "xp7") > likeness("XP7 car", None) + 0.15
    assert likeness("car", "xp7") < likeness("XP7 car", "xp7") - 0.1


@pytest.mark.slow
def test_the_style_is_seen_in_two_of_three_drawings():
    """Told from eight styles; of real 3D drawings that it never saw, the evaluator names three of four."""
    told = checkpoints.card("style-3d")["metrics"]
    for language in ("English", "Chinese"):
        with_it, without = (told[f"{way} the LoRA, {language}, 100"]["style"] for way in ("with", "without"))
        assert with_it >= 0.65 and without <= 0.2
    texts = [f"{name}，小精灵，卡通" for name in style_3d.emoji().column("name_zh")[:40]]
    pictures = draw_prompts("stable-diffusion", texts, 20, guidance=2.0, lora="style-3d")
    seen = predict(load_evaluator(), to_tensor(pictures)).style.argmax(dim=1)
    share = float((seen == STYLES.index("3d")).float().mean())
    assert share >= 0.65, share
