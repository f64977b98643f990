"""Weighted words: what is parsed, which tokens move and how far, and that weight 1 is what diffusers makes itself."""

import pytest
import torch

from course_utils.errors import InputError
from course_utils.interop.diffusers import to_pipeline
from course_utils.interop.prompt_weights import parse_weights, weighted_embeds
from tests.test_stable_diffusion import SIDE, tiny_system


@pytest.fixture(scope="module")
def pipe():
    return to_pipeline(tiny_system(), SIDE)


def usual(pipe, prompt):
    return pipe.encode_prompt([prompt], "cpu", 1, False)[0]


@pytest.mark.parametrize(
    ("prompt", "text", "weights"),
    [
        ("a cat", "a cat", [1.0] * 5),
        ("a (red:1.5) cat", "a red cat", [1.0] * 2 + [1.5] * 3 + [1.0] * 4),
        ("(粉色:2)的(蝴蝶:0.5)", "粉色的蝴蝶", [2.0, 2.0, 1.0, 0.5, 0.5]),
        ("a (cat), (dog:x)", "a (cat), (dog:x)", [1.0] * 16),
        ("", "", []),
    ],
)
def test_marks_become_weights(prompt, text, weights):
    assert parse_weights(prompt) == (text, weights)
    assert len(text) == len(weights)


@pytest.mark.parametrize("prompt", ["(red:5)", "a (red:99.5) cat"])
def test_a_weight_out_of_range(prompt):
    with pytest.raises(InputError, match="a weight must be a number from 0 to 4"):
        parse_weights(prompt)


@pytest.mark.parametrize("prompt", ["pink butterfly", "蓝色的猫，雪地", "", "a very long tale of butterflies " * 20])
def test_without_marks_it_is_what_the_pipeline_makes(pipe, prompt):
    assert torch.allclose(weighted_embeds(pipe, prompt), usual(pipe, prompt), atol=1e-6)


@pytest.mark.parametrize(
    ("marked", "plain", "words"),
    [("pink (butterfly:3)", "pink butterfly", "butterfly"), ("(粉色:3)的蝴蝶", "粉色的蝴蝶", "粉色")],
)
def test_a_mark_moves_its_own_tokens_as_far_as_it_says(pipe, marked, plain, words):
    before, after, empty = usual(pipe, plain), weighted_embeds(pipe, marked), usual(pipe, "")
    moved = (after - before).abs().amax(dim=(0, 2)) > 1e-4
    ids = pipe.tokenizer(plain).input_ids
    text = pipe.tokenizer.decode([i for i, one in zip(ids, moved.tolist(), strict=False) if one])
    assert text.strip().startswith(words)  # 的 may be part of the same token
    assert torch.allclose((after - empty)[:, moved], 3 * (before - empty)[:, moved], atol=1e-4)


def test_weight_zero_is_the_empty_prompt_in_that_place(pipe):
    after, empty = weighted_embeds(pipe, "(pink butterfly:0)"), usual(pipe, "")
    count = len(pipe.tokenizer("pink butterfly").input_ids) - 1  # the start and the words; the end stays
    assert torch.allclose(after[:, :count], empty[:, :count], atol=1e-6)
