"""The text side against the field's libraries: CLIP's text tower, the tokenizer, Stable Diffusion's guidance."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, PreTrainedTokenizerFast
from transformers import CLIPTextModel as TheirTextModel

from course_utils.data import STYLES, load_emoji, tokenizer_file
from course_utils.datasets.captions import sentence
from course_utils.datasets.compose import BACKGROUNDS, COLORS, LANGUAGES, caption
from course_utils.errors import InputError
from course_utils.generator import guidance
from course_utils.generator.samplers import ddim, sample
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import UNet
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import END, MAX_TOKENS, PAD_ID, START, encode, open_tokenizer, train_tokenizer

VOCAB, DIM, LAYERS, HEADS, LENGTH = 300, 32, 3, 4, 12


def towers(seed=0):
    """Our text tower and transformers', theirs with random weights that ours has loaded strictly."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=4 * DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    theirs = TheirTextModel(config).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # no bias or norm may hide behind a zero or a one
    ours = CLIPTextModel(VOCAB, LENGTH, DIM, LAYERS, HEADS).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def some_ids(length=LENGTH, batch=5, seed=0):
    """Texts of different lengths: start, words, end, padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (batch, length), generator=generator)
    ids[:, 0] = 0
    for row, end in enumerate(torch.randint(1, length, (batch,), generator=generator).tolist()):
        ids[row, end], ids[row, end + 1 :] = 1, PAD_ID
    return ids


@pytest.mark.parametrize("length", [1, 2, 7, LENGTH])
def test_text_tower_is_transformers(length):
    ours, theirs = towers()
    ids = some_ids(length) if length > 1 else torch.tensor([[1]])
    with torch.no_grad():
        context, answer = ours(ids), theirs(input_ids=ids)
    assert (context - answer.last_hidden_state).abs().max() < 1e-5
    assert (ours.pooled(ids, context) - answer.pooler_output).abs().max() < 1e-5


def test_text_tower_gradients_and_the_way_back():
    ours, theirs = towers()
    ids = some_ids()
    ours(ids).square().sum().backward()
    theirs(input_ids=ids).last_hidden_state.square().sum().backward()
    mine, yours = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == yours.keys()
    for name, weight in mine.items():
        scale = yours[name].grad.abs().max().clamp(min=1)
        assert (weight.grad - yours[name].grad).abs().max() / scale < 1e-5, name
    theirs.load_state_dict(CLIPTextModel(VOCAB, LENGTH, DIM, LAYERS, HEADS).state_dict(), strict=True)


def test_a_token_never_sees_those_behind_it():
    ours, _ = towers()
    ids = some_ids()
    changed = ids.clone()
    changed[:, 6:] = 7
    with torch.no_grad():
        first, second = ours(ids), ours(changed)
    assert torch.equal(first[:, :6], second[:, :6]) and not torch.allclose(first[:, 6:], second[:, 6:])


# ------------------------------------------------------------------ tokenizer
@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(tokenizer_file())


def test_every_text_survives_the_tokenizer(tokenizer):
    strange = ["naïve café", "a\tb\nc", "\u0000\ud7ff", "x" * 5000]
    for text in ["pink butterfly", "粉色的蝴蝶", "قطة سوداء", "🦋", *strange]:
        ids = tokenizer.encode(text).ids
        assert 3 <= len(ids) <= MAX_TOKENS and ids[0] == 0 and 1 in ids
    for text in ["pink butterfly", "粉色的蝴蝶", "قطة سوداء", "🦋"]:
        assert tokenizer.decode(tokenizer.encode(text).ids).replace(" ", "") == text.replace(" ", "")


def test_marks_and_shipped_vocabulary(tokenizer):
    assert [tokenizer.token_to_id(m) for m in (START, END)] == [0, 1] and tokenizer.padding["pad_id"] == PAD_ID
    assert tokenizer.get_vocab_size() == 6144
    kept = json.loads(tokenizer_file().read_text(encoding="utf-8"))
    assert kept["truncation"]["max_length"] == MAX_TOKENS


def test_full_width_commas_case_and_spaces_do_not_matter(tokenizer):
    def same(a, b):
        return tokenizer.encode(a).ids == tokenizer.encode(b).ids

    assert same("粉色的蝴蝶，noto风格，蓝天，草地", "粉色的蝴蝶,noto风格,蓝天,草地")
    assert same("粉色的蝴蝶, Noto 风格", "粉色的蝴蝶，noto风格") and same("Pink  Butterfly ", "pink butterfly")
    assert not same("pink butterfly", "butterfly pink")


def test_captions_are_never_cut_and_common_words_are_whole(tokenizer):
    meta = load_emoji(16, styles=STYLES, split="all").meta
    texts = [
        say(m, "purple", BACKGROUNDS[6], language)
        for m in meta
        for language in LANGUAGES
        for say in (caption, sentence)
    ]
    assert max(sum(e.attention_mask) for e in tokenizer.encode_batch(texts)) < MAX_TOKENS
    whole = [*COLORS, "butterfly", "noto", "twemoji", "fluent", "style", "night", "beach", "dog"]
    assert [w for w in whole if len(tokenizer.encode(w).ids) != 3] == []
    assert len(tokenizer.encode("粉色的蝴蝶").ids) == 4  # start, 粉色的, 蝴蝶, end


def test_batches_are_padded_and_masked(tokenizer):
    ids, mask = encode(tokenizer, ["dog", "pink butterfly, noto style"])
    assert ids.shape == mask.shape and mask.sum(1).tolist()[0] == 3 and (ids[~mask] == PAD_ID).all()
    assert ids.dtype == torch.long and mask.dtype == torch.bool


@pytest.mark.parametrize("texts", [[3], [b"dog"], [None], [], ["dog", "caf\udce9"], 7])
def test_what_is_no_text_is_refused(tokenizer, texts):
    with pytest.raises(InputError):
        encode(tokenizer, texts)
    assert torch.equal(encode(tokenizer, "dog")[0], encode(tokenizer, ["dog"])[0]), "one text, not three letters"


def test_transformers_reads_our_tokenizer(tokenizer):
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file()), pad_token="<|pad|>")
    texts = ["pink butterfly, noto style", "粉色的蝴蝶，雪地"]
    ids, mask = encode(tokenizer, texts)
    answer = theirs(texts, padding=True, return_tensors="pt")
    assert torch.equal(answer["input_ids"], ids) and torch.equal(answer["attention_mask"].bool(), mask)


def test_training_a_tokenizer_joins_what_is_frequent():
    small = train_tokenizer(["abab abab abab abab cd"] * 4, vocab_size=262)
    assert sorted(small.get_vocab(), key=small.get_vocab().get)[-3:] == ["ab", "Ġab", "Ġabab"]
    assert train_tokenizer(["abab cd"] * 4, 262).to_str() == train_tokenizer(["abab cd"] * 4, 262).to_str()
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(["a"], vocab_size=258)


# ------------------------------------------------------------------ guidance
CONDITION = {"context": torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))}


def conditional_nets():
    """The same random conditional U-Net twice: ours and diffusers'."""
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    ours = UNet(4, 4, (16, 32), 1, (False, True), num_heads=4, groups=8, context_dim=16).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("scale", [1, 0, 3.0, 7.5])
def test_guided_sampling_is_stable_diffusions(scale):
    ours, theirs = conditional_nets()
    schedule = make_schedule("scaled_linear")
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = schedule.alpha_bar.clone()
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=theirs,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    context, negative = CONDITION["context"], CONDITION["context"].flip(0) * 0.3
    xT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    wanted = pipeline(
        prompt_embeds=context,
        negative_prompt_embeds=negative,
        latents=xT.clone(),
        guidance_scale=scale,
        num_inference_steps=5,
        output_type="latent",
        height=64,
        width=64,
    ).images
    mask = torch.ones(2, 5, dtype=torch.bool)
    scale = scale if scale > 1 else 1  # the pipeline switches guidance off at 1 and below
    model = guidance.guided(ours, context, mask, scale, negative, mask)
    got = sample(ddim, model, xT, schedule, steps=5, clip=False, spacing="trailing")
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp(min=1)


def test_scale_zero_ignores_the_text_and_one_is_off():
    ours, _ = conditional_nets()
    xT, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 500])
    context, mask = CONDITION["context"], torch.ones(2, 5, dtype=torch.bool)
    start = mask.clone()
    start[:, 1:] = False
    with torch.no_grad():
        without = ours(xT, t, context=context, context_mask=start)
        with_text = ours(xT, t, context=context, context_mask=mask)
        for scale in (0, 1, 2.5):
            expected = without + scale * (with_text - without)
            got = guidance.guided(ours, context, mask, scale)(xT, t)
            assert torch.allclose(got, expected, atol=1e-5)


def test_texts_of_different_lengths_guide_together():
    ours, _ = conditional_nets()
    xT, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    long, short = CONDITION["context"], torch.randn(2, 3, 16)
    ones = [torch.ones(2, n, dtype=torch.bool) for n in (5, 3)]
    with torch.no_grad():
        expected = guidance.apply_guidance(
            ours(xT, t, context=short, context_mask=ones[1]), ours(xT, t, context=long, context_mask=ones[0]), 4.0
        )
        got = guidance.guided(ours, long, ones[0], 4.0, short, ones[1])(xT, t)
        swapped = guidance.guided(ours, short, ones[1], -3.0, long, ones[0])(xT, t)  # u + s (c - u) from the other end
    assert torch.allclose(got, expected, atol=1e-5) and torch.allclose(swapped, expected, atol=1e-5)


def test_drop_hides_everything_but_the_start_in_the_right_share():
    mask = torch.ones(20_000, 6, dtype=torch.bool)
    mask[:, 4:] = False
    kept = guidance.drop_caption(mask, 0.1, torch.Generator().manual_seed(0))
    dropped = kept.sum(1) == 1
    assert kept[:, 0].all() and torch.equal(kept[~dropped], mask[~dropped])
    assert abs(float(dropped.float().mean()) - 0.1) < 0.01
    assert torch.equal(guidance.drop_caption(mask, 0.0, torch.Generator()), mask)
