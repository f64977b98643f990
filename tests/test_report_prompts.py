"""The table of goals: what real pictures score in it, what copies and monotony score, and that it runs to its end."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.data import to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.perceptual import FeatureNet
from course_utils.evaluation import report
from course_utils.evaluation import report_prompts as goals
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts, held_out_style_prompts


def drawings(prompts, split):
    """The drawing of each prompt's concept and style on white, from a split; "other": of another style, seen."""
    found = []
    for prompt in prompts:
        emoji = goals.pictures_of(prompt.concept, "test" if split == "test" else "train")
        own = [i for i, meta in enumerate(emoji.meta) if (meta["style"] == prompt.style) == (split == "test")]
        found.append(emoji.on_white()[own[0]])
    return to_tensor(np.stack(found))


def test_what_is_not_asked_is_not_judged():
    wanted = goals.targets(bare_prompts(n=3))
    assert all(wanted["concept"]) and not any(wanted["style"] + wanted["color"] + wanted["background"])
    full = goals.targets(fixed_prompts(n=14))
    assert all(full["background"]) and any(full["style"])


def test_real_pictures_of_prompts_are_named_by_the_evaluator():
    prompts = fixed_prompts(n=28, styles=("noto", "twemoji", "fluent"))
    shares = alignment(load_evaluator(), goals.real_pictures(prompts), goals.targets(prompts))
    assert shares["concept"] > 0.85 and shares["color"] > 0.85 and shares["background"] > 0.9


def test_repeating_what_was_shown_is_not_composition():
    """The unseen drawings themselves are nearest to themselves; a seen drawing of the same thing is not."""
    prompts, evaluator = held_out_style_prompts(n=6), load_evaluator()
    assert goals.nearer_to_unseen(evaluator, drawings(prompts, "test"), prompts).all()
    assert not goals.nearer_to_unseen(evaluator, drawings(prompts, "other"), prompts).any()
    assert [goals.on_white(p, "en").endswith(f"{p.style} style, white background") for p in prompts] == [True] * 6


def test_real_pictures_are_as_varied_as_real_ones_and_one_picture_is_not():
    prompts, net = bare_prompts(n=2), checkpoints.load("perceptual", FeatureNet())
    real = [
        Composer(goals.pictures_of(p.concept), p_color=0.0, min_scale=0.85).compose(goals.DRAWS, seed=9)
        for p in prompts
    ]
    x = to_tensor(np.concatenate([batch.images for batch in real]))
    assert 0.7 < goals.variety(net, x, prompts) < 1.4
    assert goals.variety(net, x[:: goals.DRAWS].repeat_interleave(goals.DRAWS, 0), prompts) < 1e-3


@pytest.mark.parametrize("n", [2])
def test_the_table_has_a_row_for_every_goal(monkeypatch, n):
    rng, asked = np.random.default_rng(0), []

    def draw(texts, *options, **more):
        asked.extend(texts)
        return rng.integers(0, 256, (len(texts), 64, 64, 3), dtype=np.uint8)

    monkeypatch.setattr(report, "open_system", lambda *options: SimpleNamespace(draw=draw))
    rows = goals.evaluate_prompts("stable-diffusion-clip", n)
    names = [row.split(",")[0] for row in rows]
    for what in (*goals.FORMS, *goals.COMPOSITIONS, "held-out style"):
        assert names.count(what) == 2, what
    assert names.count("real pictures") == 2 and "unseen" in rows[f"held-out style on white, {n}"]
    assert rows["2 names, 16 times each"]["variety"].low >= 0
    assert len(report.table(rows).splitlines()) == len(rows) + 1 and "pink butterfly" in " ".join(asked)
    assert all(row.get("concept", torch.nan) >= 0 or "variety" in row for row in rows.values())
