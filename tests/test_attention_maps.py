"""Maps of attention: recorded without changing the drawing, equal to attention by hand, words whole again."""

import pytest
import torch

from course_utils.data import tokenizer_file
from course_utils.figures.attention_maps import attention_weights, paint, record_attention, word_maps, words_of
from course_utils.generator.guidance import guided
from course_utils.generator.samplers import ddim, sample
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import Patched, UNet
from course_utils.layers import Attention
from course_utils.text_encoder.tokenizer import encode, open_tokenizer


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Patched(UNet(12, 12, (16, 32), 1, (False, True), num_heads=2, groups=8, context_dim=24)).eval()


@pytest.fixture(scope="module")
def text():
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return torch.randn(2, 5, 24, generator=generator), mask


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(tokenizer_file())


def noise(count=2, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def test_weights_times_values_are_the_attention():
    torch.manual_seed(0)
    attention, x, context = Attention(8, 2, 4, context_dim=6), torch.randn(3, 9, 8), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]]).bool()
    for m in (None, mask):
        weights = attention_weights(attention, x, context, m)
        h = (weights @ attention.split(attention.to_v(context))).transpose(1, 2).flatten(2)
        assert torch.allclose(attention.to_out[0](h), attention(x, context, m), atol=1e-6)
        assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 9), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 4.0])
def test_recording_changes_nothing_and_leaves_nothing_behind(net, text, scale):
    schedule = make_schedule("cosine")
    model = guided(net, *text, scale)
    before = sample(ddim, model, noise(), schedule, steps=3, prediction="x0")
    with record_attention(net) as record:
        during = sample(ddim, model, noise(), schedule, steps=3, prediction="x0")
    assert torch.equal(before, during)
    sample(ddim, model, noise(), schedule, steps=2, prediction="x0")
    assert len(record.steps) == 3, "the hooks are gone"
    assert not net._forward_pre_hooks and not any(m._forward_hooks for m in net.modules())


def test_maps_are_shares_of_attention_by_step_and_side(net, text):
    with torch.no_grad(), record_attention(net) as record:
        for t in (900, 500, 100):
            net(noise(), torch.tensor([t, t]), context=text[0], context_mask=text[1])
    assert record.sides == [4]  # 16 pixels, folded to 8, halved to 4
    maps = record.maps()
    assert maps.shape == (3, 2, 5, 4, 4) and torch.equal(maps, record.maps(4))
    assert torch.allclose(maps.sum(2), torch.ones(3, 2, 4, 4), atol=1e-5)
    assert (maps[:, 1, 3:] == 0).all() and (maps[:, 0] > 0).all()
    assert not torch.allclose(maps[0], maps[2])


def test_hooks_go_even_after_an_error(net, text):
    with pytest.raises(RuntimeError), record_attention(net):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks for m in net.modules())


def test_misuse_gets_a_sentence(net):
    with pytest.raises(ValueError, match="no cross-attention"), record_attention(UNet(3, 3, (32, 32))):
        pass
    with record_attention(net) as record:
        with pytest.raises(ValueError, match="draw inside"):
            record.maps()
        record.steps.append({4: [torch.zeros(1, 2, 4, 4)]})
        with pytest.raises(ValueError, match="choose from"):
            record.maps(8)
        with pytest.raises(ValueError, match="not a square"):
            record.keep(net.unet.mid_block.attentions[0].transformer_blocks[0].attn2, torch.zeros(1, 6, 32), None)


def test_words_are_whole_in_both_languages(tokenizer):
    prompt = "pink butterfly, serendipity"
    words, ids = words_of(tokenizer, prompt), encode(tokenizer, [prompt])[0][0]
    assert list(words) == ["pink", "butterfly", "serendipity"] and len(words["serendipity"]) > 1
    assert sorted(p for places in words.values() for p in places) == [
        i for i, token in enumerate(ids) if token > 2 and tokenizer.decode([int(token)]).strip() != ","
    ]
    assert list(words_of(tokenizer, "粉色的蝴蝶，小鹏，雪地")) == ["粉色的", "蝴蝶", "小鹏", "雪地"]
    assert len(words_of(tokenizer, "🦋")["🦋"]) > 1
    assert len(words_of(tokenizer, "cat and cat")["cat"]) == 2


def test_word_maps_add_the_tokens_of_a_word():
    maps = torch.rand(2, 4, 4, 4)
    large = word_maps(maps, {"a": [1], "bc": [2, 3]}, size=8)
    assert {k: tuple(v.shape) for k, v in large.items()} == {"a": (2, 8, 8), "bc": (2, 8, 8)}
    assert torch.allclose(large["bc"].mean(), maps[:, 2:].sum(1).mean(), atol=0.05)
    assert torch.allclose(word_maps(maps, {"a": [1]}, size=4)["a"], maps[:, 1])


def test_paint_stays_in_range_and_follows_the_weight():
    picture, weight = torch.rand(3, 8, 8) * 2 - 1, torch.zeros(8, 8)
    weight[2, 3] = 1.0
    painted = paint(picture, weight)
    assert painted.shape == (3, 8, 8) and painted.abs().max() <= 1
    assert torch.allclose(painted[:, 2, 3], 2 * torch.tensor([0.70, 0.23, 0.50]) - 1)
    assert painted[:, 0, 0].std() < 1e-6, "grey where no word is heard"
