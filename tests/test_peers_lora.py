"""LoRA layers and files equal peft's and diffusers': what we write opens there, what they write opens here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from course_utils.checkpoints import sha256, write_card
from course_utils.errors import CheckpointError
from course_utils.finetune.lora import (
    ALL_TARGETS,
    ATTENTION,
    LoRAConv2d,
    LoRALinear,
    inject,
    lora_state,
    merge,
    set_adapter,
    unload,
    weighted_sum,
)
from course_utils.interop import diffusers
from course_utils.interop.lora_files import FORMS, dotted, load_shipped_lora, read_lora, save_lora
from tests.test_lora import CALL, answer, made_up, random, tiny
from tests.test_peers_unet import randomise

EXACT = torch.float32
TARGETS = {"attention": ATTENTION, "wide": ALL_TARGETS}


@pytest.fixture(autouse=True)
def _quiet():
    import diffusers

    diffusers.utils.logging.set_verbosity_error()


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


def ours_with(state, alpha=None):
    """Our network, whether it has a LoRA or not, and what it answers with this one."""
    network = randomise(tiny())
    set_adapter(network, state, alpha)
    return answer(network)


def their_unet():
    """diffusers' U-Net with the weights of ours."""
    return diffusers.to_unet(randomise(tiny()), 8)


@torch.no_grad()
def their_answer(unet):
    return unet(*CALL).sample


def load_as_pipeline(unet, path, name=None):
    """Load a file into a U-Net as `pipeline.load_lora_weights` does it."""
    from diffusers import StableDiffusionPipeline as Pipeline

    state, alphas, metadata = Pipeline.lora_state_dict(path, unet_config=unet.config, return_lora_metadata=True)
    Pipeline.load_lora_into_unet(state, alphas, unet, adapter_name=name, metadata=metadata)


def their_unet_with(path, form):
    """Their U-Net with a file of that form in it, opened as its users open it."""
    unet = their_unet()
    if form == "peft":
        from peft import PeftModel

        return PeftModel.from_pretrained(unet, path)
    if form == "attn_procs":
        unet.load_lora_adapter(path, prefix=None)
    else:
        load_as_pipeline(unet, path)
    return unet


def assert_heard(theirs, ours):
    """The file changed the answer, and as it changed ours: a file that is passed over makes no noise."""
    assert not close(theirs, their_answer(their_unet()), 1e-2) and close(theirs, ours)


# ------------------------------------------------------------------ layers
@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (3, 7), (1, 0.5)])
@pytest.mark.parametrize("base", [nn.Linear(6, 5), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)])
def test_layers_equal_pefts(base, rank, alpha):
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(nn.Sequential(base), LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"]))
    peer = theirs.base_model.model[0]
    ours = (LoRALinear if isinstance(base, nn.Linear) else LoRAConv2d)(base, rank, alpha)
    for mine, their in ((ours.lora_A, peer.lora_A["default"]), (ours.lora_B, peer.lora_B["default"])):
        nn.init.normal_(their.weight)
        mine.load_state_dict(their.state_dict())
    x = random(2, 6) if isinstance(base, nn.Linear) else random(2, 4, 7, 7)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6) and not torch.allclose(ours(x), base(x), atol=1e-2)
    assert torch.allclose(ours.delta(), peer.get_delta_weight("default"), atol=1e-6)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for mine, their in ((ours.lora_A, peer.lora_A["default"]), (ours.lora_B, peer.lora_B["default"])):
        assert close(mine.weight.grad, their.weight.grad)


# ------------------------------------------------------------------ ours, opened there
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("form", FORMS)
def test_what_we_write_opens_there(tmp_path, form, alpha, targets):
    state = made_up(tiny(), 3, targets=targets)
    path = tmp_path / "made.safetensors"
    save_lora(path, state, alpha, form, EXACT)
    assert_heard(their_answer(their_unet_with(path, form)), ours_with(state, alpha))
    back, read = read_lora(path)  # alpha is folded into B
    assert read == 3 and close(ours_with(back, read), ours_with(state, alpha))


@pytest.mark.parametrize("form", FORMS)
def test_ranks_may_differ_from_layer_to_layer(tmp_path, form):
    state = weighted_sum([(made_up(tiny(), 3), 1.0), (made_up(tiny(), 2, 50, ATTENTION), 0.5)])
    path = save_lora(tmp_path / "x.safetensors", state, form=form, dtype=EXACT)
    assert_heard(their_answer(their_unet_with(path, form)), ours_with(state))
    back, alpha = read_lora(path)
    assert alpha is None and close(ours_with(back), ours_with(state))


def test_without_the_prefix_diffusers_passes_a_file_over(tmp_path):
    """The trap that assert_heard is for: no error, no effect."""
    unet, path = their_unet(), tmp_path / "x.safetensors"
    save_file(made_up(tiny()), path)
    load_as_pipeline(unet, path)
    assert torch.equal(their_answer(unet), their_answer(their_unet()))


def test_load_attn_procs_is_left_to_other_things(tmp_path):
    """The line of older tutorials: diffusers 0.42 answers that its successor is load_lora_adapter."""
    path = save_lora(tmp_path / "x.safetensors", made_up(tiny()), form="attn_procs")
    with pytest.raises(ValueError, match="Custom Diffusion"):
        their_unet().load_attn_procs(tmp_path, weight_name=path.name)


def test_half_precision_halves_the_file(tmp_path):
    state = made_up(tiny(), 16)
    whole, half = (save_lora(tmp_path / f"{d}.safetensors", state, dtype=d) for d in (torch.float32, torch.float16))
    assert 0.45 < half.stat().st_size / whole.stat().st_size < 0.75
    assert close(ours_with(*read_lora(half)), ours_with(state), 1e-2)


# ------------------------------------------------------------------ theirs, opened here
def peft_model(rank_pattern=None, alpha_pattern=None, targets=ALL_TARGETS, **options):
    """Our network in peft's hands, with random branches."""
    from peft import LoraConfig, get_peft_model

    options = {"r": 3, "lora_alpha": 5, **options}
    config = LoraConfig(
        target_modules=list(targets),
        init_lora_weights=False,
        rank_pattern=rank_pattern or {},
        alpha_pattern=alpha_pattern or {},
        **options,
    )
    return get_peft_model(randomise(tiny()), config)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": ATTENTION, "lora_alpha": 3},
        {"use_rslora": True},
        {"rank_pattern": {"to_q": 2, r"mid_block\..*conv1": 5}, "alpha_pattern": {"to_q": 7, "conv2": 1}},
    ],
    ids=["wide", "attention", "rank-stabilised", "patterns"],
)
def test_what_peft_writes_opens_here(tmp_path, options):
    model = peft_model(**options)
    model.save_pretrained(tmp_path)
    state, alpha = read_lora(tmp_path)
    assert alpha == (None if "rank_pattern" in options else 3)
    with torch.no_grad():
        assert_heard(ours_with(state, alpha), model(*CALL))


@pytest.mark.parametrize("alpha", [3, 8])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("way", ["save_lora_weights", "save_lora_adapter", "old names", "no metadata"])
def test_what_diffusers_writes_opens_here(tmp_path, way, targets, alpha):
    from diffusers import StableDiffusionPipeline as Pipeline
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    unet = their_unet()
    unet.add_adapter(LoraConfig(r=3, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False))
    state = get_peft_model_state_dict(unet)
    if way == "save_lora_adapter":
        unet.save_lora_adapter(tmp_path)
    else:  # as the training scripts of diffusers do it
        state = convert_state_dict_to_diffusers(state) if way == "old names" else state
        metadata = {} if way == "no metadata" else _collate_lora_metadata({"unet": unet})
        Pipeline.save_lora_weights(tmp_path, unet_lora_layers=state, **metadata)
    expected = their_answer(unet)
    if way == "no metadata":  # then alpha is the rank, here as there
        unet = their_unet()
        load_as_pipeline(unet, tmp_path)
        expected = their_answer(unet)
    assert_heard(ours_with(*read_lora(tmp_path)), expected)


def test_the_oldest_names_open_here(tmp_path):
    """attn1.processor.to_out_lora.up: what train_text_to_image_lora.py wrote in 2023."""
    state = made_up(tiny(), targets=ATTENTION)
    old = {
        key.replace("to_out.0", "to_out")
        .replace(".to_", ".processor.to_")
        .replace(".lora_A", "_lora.down")
        .replace(".lora_B", "_lora.up"): value
        for key, value in state.items()
    }
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight" in old
    save_file(old, tmp_path / "old.safetensors")
    unet = their_unet()
    unet.load_lora_adapter(tmp_path / "old.safetensors", prefix=None)
    assert_heard(ours_with(*read_lora(tmp_path / "old.safetensors")), their_answer(unet))


def in_kohyas_hand(state, alphas):
    """The tensors of a kohya file whose layers have these alphas by turns."""
    tensors = {}
    for i, key in enumerate(k for k in state if "lora_A" in k):
        layer = key.removesuffix(".lora_A.weight")
        name = "lora_unet_" + layer.replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": state[key],
            f"{name}.lora_up.weight": state[f"{layer}.lora_B.weight"],
            f"{name}.alpha": torch.tensor(alphas[i % len(alphas)]),
        }
        assert dotted(name.removeprefix("lora_unet_")) == layer
    return tensors


def test_what_kohya_writes_opens_here(tmp_path):
    save_file(in_kohyas_hand(made_up(tiny()), [1.0]), path := tmp_path / "kohya.safetensors")
    unet = their_unet()
    load_as_pipeline(unet, path)
    assert_heard(ours_with(*read_lora(path)), their_answer(unet))


def test_kohyas_alphas_are_each_layers_own(tmp_path):
    """By their meaning, alpha / rank: diffusers 0.42 overlooks those of attention where they differ."""
    state, alphas = made_up(tiny(), 3), [1.0, 6.0]
    save_file(in_kohyas_hand(state, alphas), path := tmp_path / "kohya.safetensors")
    folded = dict(state)
    for i, key in enumerate(k for k in state if "lora_B" in k):
        folded[key] = alphas[i % 2] / 3 * state[key]
    assert_heard(ours_with(*read_lora(path)), ours_with(folded))


# ------------------------------------------------------------------ merging and mixing
def test_fuse_lora_is_merge(tmp_path):
    state, unet = made_up(tiny()), their_unet()
    load_as_pipeline(unet, save_lora(tmp_path / "x.safetensors", state, 2, dtype=EXACT))
    unet.fuse_lora()
    unet.unload_lora()
    network = randomise(tiny())
    set_adapter(network, state, 2)
    unload(merge(network))
    assert all(torch.allclose(v, unet.state_dict()[k], atol=1e-5) for k, v in network.state_dict().items())
    assert_heard(their_answer(unet), answer(network))


def test_set_adapters_is_mix(tmp_path):
    first, second, unet = made_up(tiny(), 3), made_up(tiny(), 2, 50, ATTENTION), their_unet()
    for name, state in (("first", first), ("second", second)):
        load_as_pipeline(unet, save_lora(tmp_path / f"{name}.safetensors", state, dtype=EXACT), name)
    for weights in ((1.0, 1.0), (0.7, 0.4), (1.0, 0.0)):
        unet.set_adapters(["first", "second"], list(weights))
        assert_heard(their_answer(unet), ours_with(weighted_sum(zip((first, second), weights))))


def test_a_whole_pipeline_draws_our_picture(tmp_path):
    from tests.test_stable_diffusion import PROMPTS, STEPS, run, tiny_system

    system = tiny_system()
    pipeline, zT = diffusers.to_pipeline(system, 32), random(2, 4, 8, 8, seed=1)
    *_, plain = system.txt2img(zT, PROMPTS, STEPS, guidance=3.0)
    inject(system.unet, ALL_TARGETS, 2)
    state = {k: random(*v.shape, seed=i) for i, (k, v) in enumerate(lora_state(system.unet).items())}
    pipeline.load_lora_weights(save_lora(tmp_path / "x.safetensors", state))
    set_adapter(system.unet, *read_lora(tmp_path / "x.safetensors"))
    *_, ours = system.txt2img(zT, PROMPTS, STEPS, guidance=3.0)
    *_, theirs = run(pipeline, prompt=PROMPTS, latents=zT.clone(), guidance_scale=3.0)[0]
    assert close(theirs, ours.xt, 1e-4) and not close(plain.xt, ours.xt, 1e-2)


# ------------------------------------------------------------------ bad input
def test_the_course_opens_its_own_and_checks_the_digest(tmp_path):
    state = made_up(tiny())
    path = save_lora(tmp_path / "car.safetensors", state, dtype=EXACT)
    write_card(path, {"name": "car", "sha256": sha256(path)})
    back, alpha = load_shipped_lora("car", tmp_path)
    assert alpha == 3 and all(torch.equal(back[k], v) for k, v in state.items())
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_shipped_lora("car", tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint 'bus'"):
        load_shipped_lora("bus", tmp_path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"text_encoder.q_proj.lora_A.weight": (2, 4)}, "text encoder too"),
        ({"lora_te_text_model_q_proj.lora_down.weight": (2, 4)}, "text encoder too"),
        ({"conv_in.weight": (2, 4)}, "no plain LoRA"),
        ({"unet.to_q.lora_A.weight": (2, 4), "unet.to_q.lora_B.bias": (4,)}, "no plain LoRA"),
        ({"unet.to_q.lora_A.weight": (2, 4), "unet.to_q.lora_magnitude_vector": (4,)}, "no plain LoRA"),
        ({"lora_unet_to_q.hada_w1_a": (2, 4)}, "no plain LoRA"),
        ({"unet.to_q.lora_A.weight": (2, 4)}, "every layer has"),
        ({"unet.to_q.lora_A.weight": (2, 4), "unet.to_q.lora_B.weight": (4, 3)}, "do not fit"),
        ({}, "no LoRA state"),
    ],
)
def test_other_files_get_one_sentence(tmp_path, tensors, words):
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, path := tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words) as error:
        read_lora(path)
    assert "\n" not in str(error.value)


def test_missing_and_broken_files_get_one_sentence(tmp_path):
    path = save_lora(tmp_path / "x.safetensors", made_up(tiny()))
    with pytest.raises(CheckpointError, match="there is no"):
        read_lora(tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="holds no LoRA"):
        (tmp_path / "empty").mkdir()
        read_lora(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="pickle"):
        (tmp_path / "x.bin").write_bytes(b"x")
        read_lora(tmp_path / "x.bin")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        read_lora(path)
    for config in ("{", "[]"):
        folder = save_lora(tmp_path / "folder", made_up(tiny()), form="peft")
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(CheckpointError, match="truncated or altered"):
            read_lora(folder)


def test_what_cannot_be_written_is_told_and_what_was_there_stays(tmp_path, monkeypatch):
    state = made_up(tiny())
    path = save_lora(tmp_path / "x.safetensors", state)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="unknown form 'pickle'"):
        save_lora(path, state, form="pickle")
    with pytest.raises(ValueError, match="no LoRA state"):
        save_lora(path, {"conv_in.weight": torch.zeros(2)})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_lora(path, state)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_peft_reads_our_configuration_as_we_mean_it(tmp_path):
    from peft import PeftConfig

    folder = save_lora(tmp_path / "ours", made_up(tiny(), 3), 6, form="peft")
    config = PeftConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, config.rank_pattern) == (3, 6, {})
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert all(key.startswith("base_model.model.") for key in load_file(folder / "adapter_model.safetensors"))
