"""Imagen put together, with random tiny networks in every place, and its recipes on a few captions."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from course_utils import checkpoints
from course_utils.decoder.super_resolution import EfficientUNet
from course_utils.errors import CheckpointError, InputError
from course_utils.generator.pixel_unet import PixelUNet
from course_utils.generator.samplers import dpmpp_2m, sample
from course_utils.generator.thresholding import static_threshold
from course_utils.recipes import imagen_base, imagen_sr1
from course_utils.systems.imagen import SCHEDULE, Imagen, clip_text, make_base, make_sr1, text_digest
from course_utils.systems.registry import SYSTEMS, open_system
from course_utils.systems.stage import System, start_noise
from course_utils.systems.super_resolution import SuperResolution, make_sr2
from course_utils.text_encoder.frozen import FrozenText
from tests.test_peers_unet import randomise

CPU = torch.device("cpu")
TINY = {"channels": (8, 16), "num_res_blocks": 1, "attention": (False, True), "num_heads": 2, "groups": 4}
TINY |= {"context_dim": 12, "pool_heads": 2}


def letters(max_tokens=5, dim=12):
    """A text encoder that says of each letter which it is."""

    def tokenize(texts):
        length = max(1, *map(len, texts))
        ids = torch.tensor([[ord(letter) % 97 for letter in text.ljust(length)] for text in texts])[:, :max_tokens]
        mask = torch.arange(ids.shape[1])[None] < torch.tensor([[max(1, len(text))] for text in texts])
        return ids, mask

    table = torch.randn(97, dim, generator=torch.Generator().manual_seed(0))
    return FrozenText(lambda ids, mask: table[ids], tokenize, dim, max_tokens, CPU)


def tiny_imagen(**options):
    base = PixelUNet(**TINY)
    sr1 = EfficientUNet((8, 16), (1, 1), (False, True), context_dim=12, num_heads=2, groups=4)
    return Imagen(
        letters(), randomise(base, 1), SuperResolution(randomise(sr1, 2), 64, 0.2, steps=3, level=0.1), **options
    )


def tiny_system(**options):
    return System(tiny_imagen(**options).stages(), CPU, steps=2, guidance=3.0)


# ------------------------------------------------------------------ the composition
def test_two_stages_one_after_the_other():
    *states, last = tiny_system().generate(["cat", "dog"], seed=1)
    assert [state.stage for state in states] == ["16x16"] * 2 + ["64x64"] * 3
    assert [tuple(state.xt.shape[1:]) for state in states] == [(3, 16, 16)] * 2 + [(3, 64, 64)] * 3
    assert last.xt.shape == (2, 3, 64, 64) and last.xt.abs().max() <= 1


def test_text_guidance_and_negative_prompts_reach_the_picture():
    def last(*args, **options):
        *_, state = tiny_system().generate(*args, seed=1, **options)
        return state.xt

    cat = last("cat")
    for other in (last("dog"), last("cat", guidance=1.0), last("cat", negative="dog")):
        assert (cat - other).abs().mean() > 1e-4
    pair = last(["cat", "dog"])
    assert torch.allclose(pair[:1], cat, atol=1e-4), "a picture does not depend on its neighbours"


def test_both_stages_read_the_text():
    """With the first stage's picture kept, the second still differs between texts."""
    imagen, small = tiny_imagen(), torch.zeros(1, 3, 16, 16)
    pictures = []
    for text in ("cat", "dog"):
        model = imagen.sr1.conditioned_model(small, imagen.text.encode(text))
        with torch.no_grad():
            pictures.append(model(torch.zeros(1, 3, 64, 64), torch.tensor([500])))
    assert (pictures[0] - pictures[1]).abs().mean() > 1e-4


def test_guidance_is_the_two_answers_joined_then_thresholded():
    imagen = replace(tiny_imagen(), threshold=static_threshold)
    xt, t = torch.randn(2, 3, 16, 16), torch.tensor([700, 700])
    context, none = imagen.text.encode(["cat", "dog"]), torch.zeros(2, 5, 12)
    signal, noise = SCHEDULE.at(t, xt)
    with torch.no_grad():
        cond, uncond = (imagen.base(xt, t, states) for states in (context, none))
        v = uncond + 3 * (cond - uncond)
        x0 = imagen.conditioned_model(["cat", "dog"], 3.0)(xt, t)
    assert torch.allclose(x0, (signal * xt - noise * v).clamp(-1, 1), atol=1e-5)


def test_the_first_stage_alone_is_the_samplers():
    imagen = tiny_imagen()
    xT = start_noise(3, 1, (3, 16, 16))
    x = sample(dpmpp_2m, imagen.conditioned_model("cat", 2.0), xT, SCHEDULE, steps=4, prediction="x0", clip=False)
    states = [s for s in tiny_system().generate("cat", seed=3, steps=4, guidance=2.0) if s.stage == "16x16"]
    assert torch.allclose(states[-1].xt, x, atol=1e-5)


def test_the_base_is_a_latent_unet_with_a_norm_before_the_text():
    from course_utils.generator.latent_unet import LatentUNet

    base = tiny_imagen().base
    plain = LatentUNet(3, 3, **TINY)
    state = {name: value for name, value in base.state_dict().items() if not name.startswith("context_norm")}
    plain.load_state_dict(state, strict=True)
    x, t, context = torch.randn(1, 3, 16, 16), torch.tensor([9]), torch.randn(1, 5, 12)
    normed = F.layer_norm(context, (12,), base.context_norm.weight, base.context_norm.bias)
    context[0, 3:] = normed[0, 3:] = 0  # where nothing is said, nothing is heard
    assert torch.allclose(base(x, t, context), plain.eval()(x, t, normed), atol=1e-6)


# ------------------------------------------------------------------ the shipped sizes
def test_networks_fit_into_32_megabytes_of_half_precision():
    for make in (make_base, make_sr1, make_sr2):
        assert 2 * sum(p.numel() for p in make().parameters()) <= 32e6


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_sizes_that_no_system_draws_get_one_sentence(name):
    own = SYSTEMS[name].size
    for size in (0, 63, 1024, "big"):
        with pytest.raises(InputError, match=f"{name} draws pictures of {own} pixels a side, or of 256"):
            open_system(name, "cpu", size=size)


def test_a_system_without_its_checkpoints_says_how_to_make_them(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'imagen-base'.*course train imagen-base --minutes"):
        open_system("imagen", "cpu", tmp_path)


def test_networks_that_learnt_with_another_language_model_are_refused(tmp_path):
    for name, make in (("imagen-base", make_base), ("imagen-sr1", make_sr1)):
        checkpoints.save(name, make(), {"text_encoder": text_digest()}, folder=tmp_path)
    assert len(open_system("imagen", "cpu", tmp_path).stages) == 2
    checkpoints.save("imagen-sr1", make_sr1(), {"text_encoder": "0" * 64}, folder=tmp_path)
    with pytest.raises(CheckpointError, match="imagen-sr1.safetensors learnt with another language model"):
        open_system("imagen", "cpu", tmp_path)


def test_any_system_gets_a_last_stage(tmp_path):
    """Its noise and its steps are its own; the stages before draw what they draw without it."""
    checkpoints.save("imagen-sr2", randomise(make_sr2()), {}, folder=tmp_path)
    for ending in ("safetensors", "json"):
        shutil.copy(checkpoints.CHECKPOINT_DIR / f"noise-predictor.{ending}", tmp_path)
    small, large = (open_system("noise-predictor", "cpu", tmp_path, size=size) for size in (None, 256))
    *_, before = small.generate(None, seed=2, steps=2)
    states = list(large.generate(None, seed=2, steps=2))
    assert large.stages[-1].name == states[-1].stage == "256x256" and states[-1].xt.shape == (1, 3, 256, 256)
    assert torch.equal(states[1].xt, before.xt) and len(states) == 2 + large.stages[-1].steps + 1


def test_clips_text_tower_is_a_frozen_text_encoder_too():
    from course_utils.systems.clip import open_clip
    from course_utils.systems.text_pixel import tokenize

    text, clip = clip_text(), open_clip()
    context = text.encode(["pink butterfly", "cat", ""])
    ids, mask = tokenize(["pink butterfly", "cat"])
    assert context.shape == (3, 32, text.dim) and not context[2].any()
    peer = clip.text_model(ids) * mask[..., None]
    assert torch.allclose(context[:2, : ids.shape[1]], peer, atol=1e-5)


# ------------------------------------------------------------------ the recipes
@pytest.fixture
def few_captions(monkeypatch, tmp_path):
    """Sixteen captions, read by the shipped language model, and kept nowhere."""
    shown, texts = imagen_base.compose_captions(16, seed=3)
    found = imagen_base.read(texts) | {
        "index": torch.tensor(shown["index"]),
        "color": torch.tensor([imagen_base.COLORS.index(color) for color in shown["color"]]),
        "background": torch.tensor([imagen_base.BACKGROUNDS.index(place) for place in shown["background"]]),
    }
    monkeypatch.setattr(imagen_base, "CAPTIONS", 16)
    monkeypatch.setattr(imagen_base, "captions", lambda: found)
    return texts


def test_states_are_those_of_the_captions(few_captions):
    from course_utils.systems.imagen import open_text

    context = imagen_base.context_of(list(range(16)))
    assert context.shape == (16, 32, 384)
    direct = open_text().encode(few_captions)
    assert torch.equal(direct.abs().sum(-1) > 0, context.abs().sum(-1) > 0)
    assert F.cosine_similarity(direct.flatten(1), context.flatten(1)).min() > 0.99  # half precision, and bfloat16


@pytest.mark.parametrize(("recipe", "side"), [(imagen_base, 16), (imagen_sr1, 64)])
def test_a_step_of_the_recipe_can_be_repeated_and_reaches_every_weight(recipe, side, few_captions):
    network = randomise(recipe.model()).train()
    first, again = (recipe.batch(torch.Generator().manual_seed(3), 6) for _ in range(2))
    assert first["x0"].shape == (6, 3, side, side) and first["context"].shape == (6, 32, 384)
    assert all(torch.equal(first[key], again[key]) for key in first)
    loss = recipe.loss(network, first, torch.Generator().manual_seed(1))
    loss.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert loss.item() > 0 and silent == []
