"""Our system as a folder that diffusers opens, and Stable Diffusion 1.x folders opened by our own classes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils.errors import CheckpointError
from course_utils.generator.schedules import make_schedule
from course_utils.interop import folder as folders
from course_utils.interop.folder import export_folder, open_folder, open_remote
from course_utils.systems.stable_diffusion import open_stable_diffusion
from tests.test_peers_unet import randomise
from tests.test_stable_diffusion import PROMPTS, STEPS, hole, random, run, tiny_system

PARTS = {"text_encoder", "unet", "vae"}
SCHEDULER = "scheduler_config.json"


def opened_by_diffusers(folder, kind=""):
    """The pipeline that diffusers makes of a folder, as anybody would open it."""
    import diffusers

    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_same(system, ours, theirs):
    """The last latent and the pictures equal to 1e-4 of their size: diffusers' own tables are float32."""
    (*_, peer), pictures = theirs
    *_, last = ours
    assert (last.xt - peer).abs().max() < 1e-4 * max(1.0, float(peer.abs().max()))
    assert pictures.std() > 0.05, "the pictures show something"
    assert (system.decode(last.xt) - pictures).abs().max() < 1e-4


# ------------------------------------------------------------------ ours, opened by diffusers
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "walk",
    [
        {},
        {"schedule": make_schedule("scaled_linear"), "prediction": "eps", "spacing": "leading", "offset": 1},
    ],
    ids=["the course's", "another schedule"],
)
def test_an_export_draws_our_pictures(tmp_path, walk, guidance):
    system, zT = tiny_system(**walk), random(2, 4, 8, 8, seed=1)
    pipeline = opened_by_diffusers(export_folder(system, tmp_path / "ours", size=32))
    assert pipeline.unet.config.sample_size == 8 and pipeline.safety_checker is None
    theirs = run(pipeline, prompt=PROMPTS, latents=zT.clone(), guidance_scale=guidance)
    assert_same(system, system.txt2img(zT, PROMPTS, STEPS, guidance), theirs)


def test_an_inpainting_export_fills_our_holes(tmp_path):
    system, zT = tiny_system(9), random(2, 4, 8, 8, seed=1)
    pictures = random(2, 3, 32, 32, seed=2).sigmoid()
    pipeline = opened_by_diffusers(export_folder(system, tmp_path / "ours", size=32), "Inpaint")
    theirs = run(
        pipeline,
        prompt=PROMPTS,
        latents=zT.clone(),
        image=pictures,
        mask_image=hole(),
        strength=1.0,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(5),
    )
    ours = system.inpaint(zT, 2 * pictures - 1, hole(), PROMPTS, STEPS, torch.Generator().manual_seed(5), guidance=3.0)
    assert_same(system, ours, theirs)


def test_an_export_is_whole_and_free_of_pickles(tmp_path):
    folder = export_folder(tiny_system(), tmp_path / "ours")
    others = {"tokenizer", "scheduler", "model_index.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == PARTS | others
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert sum(path.suffix == ".safetensors" for path in files) == 3
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DPMSolverMultistepScheduler" and config["beta_schedule"] == "squaredcos_cap_v2"
    assert config["prediction_type"] == "v_prediction" and config["timestep_spacing"] == "trailing"
    assert config["final_sigmas_type"] == "zero" and config["trained_betas"] is None
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []


def test_an_export_comes_back(tmp_path):
    """What we export, we open: the same weights, tokens, schedule and pictures."""
    system, zT = tiny_system(), random(2, 4, 8, 8, seed=1)
    back = open_folder(export_folder(system, tmp_path / "ours", size=32))
    for part in PARTS:
        ours, theirs = getattr(system, part).state_dict(), getattr(back, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(back.tokenize([*PROMPTS, ""]), system.tokenize([*PROMPTS, ""]))
    assert torch.equal(back.schedule.beta, system.schedule.beta)
    for name in ("scaling_factor", "prediction", "spacing", "offset"):
        assert getattr(back, name) == getattr(system, name)
    *_, a = system.txt2img(zT, PROMPTS, 5)
    *_, b = back.txt2img(zT, PROMPTS, 5)
    assert torch.allclose(a.xt, b.xt, atol=1e-5)


def test_only_an_earlier_export_is_replaced(tmp_path):
    folder, system = tmp_path / "ours", tiny_system()
    folder.mkdir()
    export_folder(system, folder)  # an empty folder is taken
    first = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (folder / "notes.txt").write_text("mine")
    randomise(system.unet, seed=9)
    export_folder(system, folder)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != first
    assert (folder / "notes.txt").read_text() == "mine", "what others put there stays"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "a file").write_text("text")
    for name in ("photos", "a file"):
        with pytest.raises(CheckpointError, match="holds something else: name a new folder"):
            export_folder(system, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "ours", "photos"]
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_others_may_read_an_export_as_the_umask_lets_them(tmp_path):
    folder = export_folder(tiny_system(), tmp_path / "ours")
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    files = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    assert files == {(tmp_path / "plain").stat().st_mode}
    assert {folder.stat().st_mode, (folder / "unet").stat().st_mode} == {(tmp_path / "folder").stat().st_mode}


@pytest.mark.parametrize("moves", [1, 4, 7])
def test_two_exports_never_mix_into_one_that_opens(tmp_path, monkeypatch, moves):
    """Killed while the second takes the place of the first: the folder does not open, and the next export mends it."""
    folder, done, move = export_folder(tiny_system(), tmp_path / "ours"), [], os.replace

    def killed(*paths):
        done.append(paths)
        if len(done) > moves:
            raise KeyboardInterrupt
        move(*paths)

    system = tiny_system()
    randomise(system.unet, seed=9)
    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export_folder(system, folder)
    assert not (folder / "model_index.json").exists()
    with pytest.raises(OSError, match="model_index.json"):
        opened_by_diffusers(folder)
    opened = opened_by_diffusers(export_folder(system, folder))
    assert all(torch.equal(opened.unet.state_dict()[key], value) for key, value in system.unet.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    "words", ["Error while serializing: No space left on device (os error 28)", "File too large (os error 27)"]
)
def test_a_full_disk_leaves_the_earlier_export_whole(tmp_path, monkeypatch, words):
    from diffusers import AutoencoderKL
    from safetensors import SafetensorError

    def full(*args, **options):
        raise SafetensorError(words)

    folder = export_folder(tiny_system(), tmp_path / "ours")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(AutoencoderKL, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="the disk is full: .* free some space"):
        export_folder(tiny_system(), folder)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match="only a system with"):
        export_folder(replace(tiny_system(), tokenize=lambda texts: texts, vocabulary=None), "never-made")
    with pytest.raises(ValueError, match="4 or 9 channels"):
        export_folder(tiny_system(20), "never-made")
    assert not Path("never-made").exists()


def test_the_shipped_system_draws_the_same_in_diffusers(tmp_path):
    system = open_stable_diffusion()
    zT = random(1, 4, 16, 16)
    pipeline = opened_by_diffusers(export_folder(system, tmp_path / "ours"))
    theirs = run(pipeline, prompt=PROMPTS[:1], latents=zT.clone(), guidance_scale=3.0)
    assert_same(system, system.txt2img(zT, PROMPTS[:1], STEPS, 3.0), theirs)


# ------------------------------------------------------------------ theirs, opened by our classes
def tiny_clip_tokenizer(folder):
    """A CLIP tokenizer of single letters and a few words, saved as the first Stable Diffusion folders hold it."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = ["c a", "ca t</w>", "p i", "n k</w>", "pi nk</w>"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **marks})
    )
    return len(tokens)


def stable_diffusion_1(folder):
    """A folder of Stable Diffusion 1.x's format with random weights: all four levels and eight heads, few channels."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder.mkdir()
    size = tiny_clip_tokenizer(folder / "read")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "read")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32, 64, 64), cross_attention_dim=32, attention_head_dim=8,
    )  # fmt: skip  # the rest is Stable Diffusion's by default
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        sample_size=64,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module, scale in ((text, 0.2), (unet, 0.06), (vae, 0.12)):
            for weight in module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    diffusers.StableDiffusionPipeline(
        vae,
        text,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def modern(tmp_path_factory):
    """A Stable Diffusion 1.x folder as diffusers saves it today."""
    return stable_diffusion_1(tmp_path_factory.mktemp("modern") / "sd")


def edit(path, change):
    """Change a JSON file."""
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def old(modern, tmp_path_factory):
    """The same as the first Stable Diffusion folders were: old names, short configurations, buffers saved."""
    folder = tmp_path_factory.mktemp("old") / "sd"
    shutil.copytree(modern, folder)
    where = folder / "text_encoder" / "model.safetensors"
    text = {f"text_model.{name}": weight for name, weight in load_file(where).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(text, where, {"format": "pt"})
    where = folder / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = load_file(where)
    for name in [name for name in vae if ".attentions." in name]:
        for new, before in names.items():
            if f".{new}." in name:
                vae[name.replace(new, before)] = vae.pop(name)
    assert sum(".proj_attn." in name for name in vae) == 4
    save_file(vae, where, {"format": "pt"})
    keep = {
        "unet": (
            "in_channels",
            "out_channels",
            "block_out_channels",
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "attention_head_dim",
            "cross_attention_dim",
            "sample_size",
            "act_fn",
            "norm_num_groups",
            "norm_eps",
            "flip_sin_to_cos",
            "freq_shift",
            "downsample_padding",
        ),
        "vae": (
            "in_channels",
            "out_channels",
            "latent_channels",
            "block_out_channels",
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "sample_size",
            "act_fn",
        ),
    }

    def shorten(part):
        return lambda c: [c.pop(key) for key in [*c] if key not in (*keep[part], "_class_name")]

    for part in keep:
        edit(folder / part / "config.json", shorten(part))
    edit(folder / "scheduler" / SCHEDULER, lambda c: [c.pop("timestep_spacing"), c.pop("prediction_type")])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    for path in (folder / "read").iterdir():
        shutil.copy(path, folder / "tokenizer")
    return folder


@pytest.mark.parametrize(("kind", "spacing", "offset"), [("modern", "leading", 1), ("old", "linspace", 0)])
def test_stable_diffusion_1_draws_the_same_in_our_classes(kind, spacing, offset, request):
    from diffusers import DPMSolverMultistepScheduler

    from tests.test_stable_diffusion import exact

    folder = request.getfixturevalue(kind)
    system, pipeline = open_folder(folder), opened_by_diffusers(folder)
    assert (system.prediction, system.spacing, system.offset) == ("eps", spacing, offset)
    assert system.scaling_factor == 0.18215
    assert torch.equal(system.schedule.beta, make_schedule("scaled_linear").beta)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    prompts = ["a pink cat, " * 30, "猫 on 3 mats!"]
    tokens = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(system.tokenize(prompts), tokens) and tokens.shape == (2, 77)
    exact(pipeline.scheduler, system.schedule)
    zT = random(2, 4, 8, 8, seed=1)
    theirs = run(pipeline, prompt=prompts, negative_prompt=["dog"] * 2, latents=zT.clone(), guidance_scale=7.5)
    assert_same(system, system.txt2img(zT, prompts, STEPS, 7.5, "dog"), theirs)


@pytest.fixture
def broken(modern, tmp_path):
    """A copy of a good folder, to be broken."""
    shutil.copytree(modern, tmp_path / "sd")
    return tmp_path / "sd"


def to_pickle(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({"x": torch.zeros(1)}, path.with_suffix(".bin"))
    path.unlink()


def truncate(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def setting(part, name="config.json", **values):
    return lambda folder: edit(folder / part / name, lambda config: config.update(values))


def to_pointer(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")


def no_vocabulary(folder):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)


def stray_instead(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("my_model.safetensors"))


BROKEN = {
    "pickle": (to_pickle, "holds only diffusion_pytorch_model.bin, a pickle"),
    "no weights": (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "holds none"),
    "truncated": (truncate, "truncated or altered"),
    "no part": (lambda f: shutil.rmtree(f / "vae"), "there is no .*vae"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "no tokenizer"),
    "damaged": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json is damaged"),
    "a list": (lambda f: (f / "unet" / "config.json").write_text("[1]"), "config.json is damaged"),
    "GELU": (setting("text_encoder", hidden_act="gelu"), "asks for hidden_act = 'gelu', and the course's has 'quick_"),
    "SD 2": (setting("unet", attention_head_dim=[5, 10, 20, 20]), "as many on every level"),
    "sigmoids": (setting("unet", act_fn="gelu"), "asks for act_fn"),
    "other width": (setting("unet", cross_attention_dim=48), "another network .*size mismatch"),
    "one level less": (setting("vae", block_out_channels=[32, 32, 64]), "another network"),
    "no number": (lambda f: edit(f / "unet" / "config.json", lambda c: c.pop("in_channels")), "lacks 'in_channels'"),
    "schedule": (setting("scheduler", SCHEDULER, beta_schedule="sigmoid"), "unknown schedule 'sigmoid'"),
    "flow": (setting("scheduler", SCHEDULER, prediction_type="flow"), "unknown prediction 'flow'"),
    "no vocabulary": (no_vocabulary, "holds no vocabulary"),
    "no token": (
        lambda f: edit(f / "tokenizer" / "tokenizer.json", lambda c: c.update(model={})),
        "holds no tokenizer",
    ),
    "karras": (setting("scheduler", SCHEDULER, use_karras_sigmas=True), "asks for use_karras_sigmas = True"),
    "lu": (setting("scheduler", SCHEDULER, use_lu_lambdas=True), "asks for use_lu_lambdas = True"),
    "sigma_min": (setting("scheduler", SCHEDULER, final_sigmas_type="sigma_min"), "asks for final_sigmas_type"),
    "not fetched": (to_pointer, "git-LFS pointer, not the weights: `git lfs pull`"),
    "stray": (stray_instead, "needs weights in one .safetensors file and holds none"),
}


@pytest.mark.parametrize(("damage", "words"), BROKEN.values(), ids=BROKEN)
def test_a_folder_that_cannot_be_opened(broken, damage, words):
    damage(broken)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_folder(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", [4, 2, 0.5], ids=["a line less", "three lines less", "within a line"])
def test_merges_that_are_cut_off(old, tmp_path, lines):
    """Words fall apart into letters then: the text encoder has never seen them so."""
    shutil.copytree(old, tmp_path / "sd")
    path = tmp_path / "sd" / "tokenizer" / "merges.txt"
    whole = path.read_text().splitlines(keepends=True)
    cut = whole[: 1 + lines] if lines >= 1 else [*whole[:3], "p"]
    path.write_text("".join(cut))
    with pytest.raises(CheckpointError, match="cut off|no tokenizer that transformers opens") as caught:
        open_folder(tmp_path / "sd")
    assert "\n" not in str(caught.value)


def test_a_file_beside_the_weights_changes_nothing(broken):
    good = open_folder(broken)
    for path in (
        broken / "unet" / "diffusion_pytorch_model.safetensors",
        broken / "text_encoder" / "model.safetensors",
    ):
        other = {key: value + 1 for key, value in load_file(path).items()}
        for name in (f"a_{path.name}", "a_model.safetensors"):
            save_file(other, path.with_name(name))
    again = open_folder(broken)
    for part in PARTS:
        ours, theirs = getattr(good, part).state_dict(), getattr(again, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="there is no .*: name a folder of Stable Diffusion"):
        open_folder(tmp_path / "nothing")


def test_half_precision_weights_are_enough(broken):
    """A folder of the fp16 variant opens, in float32."""
    system = open_folder(broken)
    for part in PARTS:
        (path,) = (broken / part).glob("*.safetensors")
        save_file(
            {name: weight.half() for name, weight in load_file(path).items()}, path.with_suffix(".fp16.safetensors")
        )
        path.unlink()
    half = open_folder(broken)
    for part in PARTS:
        for a, b in zip(getattr(system, part).parameters(), getattr(half, part).parameters(), strict=True):
            assert b.dtype == torch.float32 and torch.equal(a.half().float(), b)


@pytest.mark.parametrize(
    ("name", "scheduler", "zero_snr"),
    [
        ("linear", {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}, False),
        ("scaled_linear", {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}, True),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}, False),
    ],
)
def test_schedules(broken, name, scheduler, zero_snr):
    setting("scheduler", SCHEDULER, prediction_type="v_prediction", timestep_spacing="trailing", **scheduler)(broken)
    system = open_folder(broken)
    assert torch.allclose(system.schedule.alpha_bar, make_schedule(name, zero_snr=zero_snr).alpha_bar, atol=1e-12)
    assert (system.prediction, system.spacing, system.offset) == ("v", "trailing", 0)


def test_fetching_without_a_network():
    with pytest.raises(CheckpointError, match="could not be fetched .* connect to a network") as caught:
        open_remote()
    assert "\n" not in str(caught.value)


def test_what_is_fetched_is_pinned_and_safe(monkeypatch, modern):
    """A commit is asked for, never a branch; no pickle is; what comes is opened."""
    import huggingface_hub

    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options) or modern)
    assert open_remote().spacing == "leading"
    assert len(asked["revision"]) == 40 and int(asked["revision"], 16)
    names = [path.relative_to(modern).as_posix() for path in modern.rglob("*") if path.is_file()]
    half = {name.replace(".safetensors", ".fp16.safetensors") for name in names if name.endswith(".safetensors")}
    needed = {name for name in names if not name.startswith("read") and not name.endswith(".safetensors")} | half
    others = {
        "unet/diffusion_pytorch_model.bin",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.fp16.safetensors",
    }
    wanted = huggingface_hub.utils.filter_repo_objects([*needed, *others], allow_patterns=folders.FILES)
    assert len(half) == 3 and set(wanted) == needed
