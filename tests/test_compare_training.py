"""The tool that trains variants in turns: what a variant's name means, and that a comparison runs to its end."""

from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from course_utils.evaluation import learning
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.runs import read_progress
from course_utils.systems import stable_diffusion_clip as wide
from course_utils.systems.clip import embed_texts, open_clip
from course_utils.systems.stable_diffusion import tokenize
from tests.test_stable_diffusion import random
from tests.test_stable_diffusion_clip import few, shop  # noqa: F401 (fixtures)
from tools import compare_training as tool


def test_a_name_says_what_differs():
    options, recipe = tool.parse("gamma=5, prediction=x0, lr=5e-4, batch_size=32, net=small")
    assert (options.gamma, options.prediction, options.power) == (5.0, "x0", text.SHIPPED.power)
    assert (recipe.lr, recipe.batch_size, recipe.ema_decay) == (5e-4, 32, text.RECIPE.ema_decay)
    assert recipe.model().conv_in.out_channels == 40 and recipe.name == wide.NAME
    options, recipe = tool.parse("course")
    assert options == text.SHIPPED and recipe.model is wide.make_unet
    with pytest.raises(TypeError, match="colour"):
        tool.parse("colour=3")


@torch.inference_mode()
def test_the_peer_begins_with_our_weights():
    torch.manual_seed(0)
    ours = wide.make_unet().eval()
    torch.manual_seed(0)
    theirs = tool.NETS["diffusers"]().eval()
    zt, t, context = random(2, 4, 16, 16), torch.tensor([10, 900]), random(2, 32, wide.CONTEXT_DIM)
    assert (ours(zt, t, context) - theirs(zt, t, context)).abs().max() < 1e-5
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.inference_mode()
def test_clips_vector_is_the_last_token_and_reaches_the_step(few):  # noqa: F811
    reader, prompts = tool.VectorReader(open_clip()), ["pink butterfly", "猫"]
    context = reader(tokenize(prompts))
    assert context.shape == (2, 33, wide.CONTEXT_DIM)
    assert torch.allclose(context[:, -1], embed_texts(open_clip(), prompts) * wide.CONTEXT_DIM**0.5, atol=1e-4)
    unet = tool.NETS["clip-vector"]().eval()
    zt, t = random(2, 4, 16, 16), torch.tensor([10, 900])
    other = context.clone()
    other[:, -1] = other[:, -1].flip(0)
    assert not torch.equal(unet.embed(t, added=context[:, -1]), unet.embed(t, added=other[:, -1]))
    assert unet(zt, t, context).shape == zt.shape
    assert tool.NETS["no-pool"]()(zt, t, context).shape == zt.shape


def test_a_comparison_runs_to_its_end_and_goes_on(few, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setitem(tool.NETS, "course", partial(wide.make_unet, channels=(16, 24, 32)))
    monkeypatch.setattr("tools.turns.workers_for", lambda device, batch: 0)
    monkeypatch.setattr("course_utils.training.time", SimpleNamespace(monotonic=partial(next, count())))
    args = SimpleNamespace(minutes=1, run_dir=tmp_path, seed=0)  # four looks at the clock, a second each, are a step
    tool.unseen.cache_clear()
    monkeypatch.setattr(tool, "STEPS", 1)
    variant = tool.Variant("plain=0.8, batch_size=8 > course, batch_size=8", args)
    variant.train(0.5, None)
    first = variant.state
    variant.train(1.0, None)
    assert 30 <= first.seconds < 36 and 56 <= variant.state.seconds < 66 and variant.state.step > first.step > 3
    (run,) = variant.folder.glob("*.run.safetensors")
    assert read_progress(run)["step"] == variant.state.step
    assert set(tool.averaged_weights(run)) == set(variant.state.ema.state_dict())
    assert tool.error(variant.system()) > 0
    rows = tool.judge(variant, 2)
    assert len(rows) == 2 and all("concept" in row for row in rows.values())
    assert {path.name for path in variant.folder.glob("*.png")} == {"full.png", "bare.png"}


def test_the_learning_curve_gets_what_is_drawn(few, monkeypatch):  # noqa: F811
    monkeypatch.setattr(learning, "DRAWN", 2)
    monkeypatch.setattr(learning, "STEPS", 1)
    learning.frozen_parts.cache_clear()
    seen = learning.WATCHES[wide.NAME](wide.make_unet().eval())
    learning.frozen_parts.cache_clear()
    assert set(seen) == {"concept", "background", "concept, names alone"} and all(0 <= x <= 1 for x in seen.values())
