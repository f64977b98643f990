"""The tool that trains both picture towers for equal minutes: it takes turns, goes on, and fills the card."""

import json
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from course_utils import checkpoints
from course_utils.image_encoder.clip_vision import CLIPVisionModel, ResNetVisionModel
from course_utils.runs import read_progress
from course_utils.systems.clip import CLIP
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, VOCAB_SIZE
from tools import compare_towers as tool

VISION = {
    "residual": lambda: ResNetVisionModel(widths=(8, 8, 8, 16)),
    "vit": lambda: CLIPVisionModel(64, patch_size=16, dim=16, num_layers=1, num_heads=2),
}


def tiny(vision):
    return CLIP(CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, dim=16, num_layers=1, num_heads=2), vision(), 16, 16, 8)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Tiny towers, batches of 8, a clock that ticks a second a look, and a card in a folder of its own."""
    for name, vision in VISION.items():
        recipe = replace(tool.RECIPES[name], model=partial(tiny, vision), batch_size=8)
        monkeypatch.setitem(tool.RECIPES, name, recipe)
    monkeypatch.setattr(tool, "PICTURES", 12)
    monkeypatch.setattr("tools.turns.workers_for", lambda device, batch: 0)
    monkeypatch.setattr("course_utils.training.time", SimpleNamespace(monotonic=partial(next, count())))
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", tmp_path)
    checkpoints.save("clip", {"scale": torch.ones(1)}, {"recipe": "clip", "metrics": {"training_loss": 0.5}})
    return tmp_path


def test_the_arms_differ_in_their_picture_tower_alone():
    residual, vit = (recipe.model() for recipe in tool.RECIPES.values())
    assert isinstance(residual.vision_model, ResNetVisionModel) and isinstance(vit.vision_model, CLIPVisionModel)
    assert replace(tool.RECIPES["vit"], model=tool.RECIPE.model) == tool.RECIPES["residual"] == tool.RECIPE


def test_both_train_in_turns_for_equal_minutes_and_the_card_keeps_what_they_learnt(small, capsys):
    tool.main(["--minutes", "1", "--run-dir", str(small / "runs")])
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()[:8]] == ["residual", "vit"] * tool.TURNS
    card = checkpoints.card("clip")
    assert card["metrics"] == {"training_loss": 0.5} and list(card["towers"]) == ["residual", "vit"]
    for name, row in card["towers"].items():
        steps = read_progress(small / "runs" / name / "clip.run.safetensors")["step"]
        assert 0.9 <= row["minutes"] <= 1.1 and row["pairs"] == 8 * steps > 0 and row["loss"] > 0, name
        for key in ("concept", "concept_top5", "R@1"):
            low, high = row[f"{key}_interval"]
            assert 0 <= low <= row[key] <= high <= 1, (name, key)
    before = json.dumps(card["towers"])
    tool.main(["--minutes", "1", "--run-dir", str(small / "runs")])  # nothing is left to train
    assert json.dumps(checkpoints.card("clip")["towers"]) == before


def test_an_interrupted_run_is_gone_on_with(small):
    path, recipe = small / "residual" / "clip.run.safetensors", tool.RECIPES["residual"]
    tool.train_until(path, recipe, 0.5, 1.0, seed=0)
    first = read_progress(path)
    tool.train_until(path, recipe, 1.0, 1.0, seed=0)
    then = read_progress(path)
    assert 30 <= first["seconds"] < 40 and 55 <= then["seconds"] < 70 and then["step"] > first["step"] > 0
