"""The wide Stable Diffusion that reads with CLIP: open to others, bound to its parents, shown what it should be."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.app import train
from course_utils.data import load_splits, to_tensor, tokenizer_file
from course_utils.datasets import latent_cache
from course_utils.decoder.vae import VAE
from course_utils.errors import CheckpointError
from course_utils.generator.conditions import outline
from course_utils.interop.diffusers import to_pipeline, to_unet
from course_utils.interop.folder import export_folder
from course_utils.recipes import inpaint_clip, latent_base, outline_clip
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.recipes.catalog import find
from course_utils.systems import stable_diffusion_clip as wide
from course_utils.systems.clip import make_clip
from course_utils.text_encoder.tokenizer import PAD_ID, encode, open_tokenizer
from tests.test_folder import assert_same, opened_by_diffusers
from tests.test_parents import arguments
from tests.test_peers_unet import randomise
from tests.test_stable_diffusion import PROMPTS, STEPS, random, run


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a system of random weights, CLIP, autoencoder and the U-Net that belongs to them, and the judge."""
    folder = tmp_path_factory.mktemp("shop")
    for file in checkpoints.CHECKPOINT_DIR.glob("evaluator.*"):
        shutil.copy(file, folder)
    networks = {"clip": make_clip(), wide.VAE_NAME: VAE(), wide.NAME: wide.make_unet()}
    for name, network in networks.items():
        card = {"scaling_factor": 0.7} if name == wide.VAE_NAME else {}
        if name == wide.NAME:
            card["parents"] = {parent: checkpoints.card(parent, folder)["sha256"] for parent in ("clip", wide.VAE_NAME)}
        checkpoints.save(name, randomise(network), card, folder=folder)
    return folder


@pytest.fixture
def few(monkeypatch, tmp_path, shop):
    """The recipe with 2 chunks of 96 examples and random parents, its latents in a folder of its own."""
    monkeypatch.setattr(text, "CHUNK", 96)
    monkeypatch.setattr(text, "CHUNKS", 2)
    monkeypatch.setattr(latent_cache, "DATA_DIR", tmp_path)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", shop)
    forget = (text.examples, text.plain_examples, text.text_encoder)
    [function.cache_clear() for function in forget]
    yield tmp_path
    [function.cache_clear() for function in forget]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ the networks
def test_it_is_as_large_as_its_file_and_a_laptop_allow():
    from torch.utils.flop_counter import FlopCounterMode

    unet = wide.make_unet()
    numbers = sum(p.numel() for p in unet.parameters())
    assert 12e6 < numbers < 17e6 and 2 * numbers < 32e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(random(1, 4, 16, 16), torch.tensor([3]), random(1, 32, wide.CONTEXT_DIM))
    assert 0.7e9 < counter.get_total_flops() < 1.5e9


@torch.inference_mode()
def test_the_unet_opens_in_diffusers():
    ours = randomise(wide.make_unet()).eval()
    theirs = to_unet(ours, 16)
    zt, t, context = random(2, 4, 16, 16), torch.tensor([10, 900]), random(2, 32, wide.CONTEXT_DIM, seed=1)
    peer = theirs(zt, t, context).sample
    assert (ours(zt, t, context) - peer).abs().max() < 1e-4 * peer.abs().max()


@torch.inference_mode()
def test_clips_tower_opens_in_transformers_and_reads_as_ours(shop):
    """The context is the last layer's, after the final norm, and the pooled vector that at the end of the text."""
    system = wide.open_stable_diffusion(folder=shop)
    pipeline, prompts = to_pipeline(system), [*PROMPTS, "", "a very long tale of butterflies " * 20]
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    ids = system.tokenize(prompts)
    theirs, context = pipeline.text_encoder(ids), system.encode_prompt(prompts)
    assert context.shape == (4, 32, wide.CONTEXT_DIM)
    assert (context - theirs.last_hidden_state).abs().max() < 1e-4
    assert (system.text_encoder.pooled(ids, context) - theirs.pooler_output).abs().max() < 1e-4
    assert not any(p.requires_grad for p in system.text_encoder.parameters())


@torch.inference_mode()
def test_filling_a_prompt_up_changes_nothing_of_its_words(shop):
    """CLIP learnt from captions filled up to the longest of a batch, and here all are filled up to 32 tokens."""
    encoder = wide.open_text_encoder(folder=shop)
    ids, _ = encode(open_tokenizer(tokenizer_file()), ["pink butterfly"])
    full = wide.StableDiffusion.__dataclass_fields__["tokenize"].default(["pink butterfly"])
    assert full.shape == (1, 32) and (full[0, ids.shape[1] :] == PAD_ID).all()
    short, long = encoder(ids), encoder(full)
    assert (short - long[:, : ids.shape[1]]).abs().max() < 1e-5
    assert (encoder.pooled(ids, short) - encoder.pooled(full, long)).abs().max() < 1e-5


def test_an_export_draws_our_pictures(shop, tmp_path):
    system, zT = wide.open_stable_diffusion(folder=shop), random(2, 4, 8, 8, seed=1)
    pipeline = opened_by_diffusers(export_folder(system, tmp_path / "ours", size=32))
    theirs = run(pipeline, prompt=PROMPTS, latents=zT.clone(), guidance_scale=3.0)
    assert_same(system, system.txt2img(zT, PROMPTS, STEPS, 3.0), theirs)


# ------------------------------------------------------------------ its parents
def test_the_card_names_both_parents(few):
    parents = train.beginning(find(wide.NAME), arguments(), None)["parents"]
    assert parents == {name: checkpoints.card(name)["sha256"] for name in (wide.VAE_NAME, "clip")}


@pytest.mark.parametrize("parent", ["clip", wide.VAE_NAME])
def test_another_parent_is_refused_in_one_sentence(shop, tmp_path, parent, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", tmp_path)
    for name in ("clip", wide.VAE_NAME, wide.NAME):
        for ending in ("json", "safetensors"):
            (tmp_path / f"{name}.{ending}").write_bytes((shop / f"{name}.{ending}").read_bytes())
    other = make_clip() if parent == "clip" else VAE()
    checkpoints.save(parent, other, {"scaling_factor": 0.7}, folder=tmp_path)
    with pytest.raises(CheckpointError, match=f"another {parent}.safetensors") as error:
        wide.open_stable_diffusion(folder=tmp_path)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ what it is shown
def test_latents_are_made_once_and_those_of_other_pictures_apart(few):
    shown = text.examples()
    assert {key: len(value) for key, value in shown.items()} == dict.fromkeys(
        ("z", "index", "color", "background"), 192
    )
    (file,) = (few / "cache").iterdir()
    made = file.stat().st_mtime_ns
    text.examples.cache_clear()
    again = text.examples()
    assert all(torch.equal(again[key], shown[key]) for key in shown) and file.stat().st_mtime_ns == made
    mirrored = text.examples(True)
    assert len([*(few / "cache").iterdir()]) == 2 and not torch.equal(mirrored["z"], shown["z"])
    assert torch.equal(mirrored["index"], shown["index"])


def test_numbers_tell_what_the_composer_drew(few):
    shown, chunk = text.examples(), text.compose(1).attributes
    names = [None if not (c := int(n)) else text.COLORS[c] for n in shown["color"][96:]]
    assert names == chunk["color"] and shown["index"][96:].tolist() == chunk["index"]
    assert [text.BACKGROUNDS[b] for b in shown["background"][96:]] == chunk["background"]


def test_what_is_held_out_is_never_shown(few):
    splits, known = load_splits(), text.emoji().meta
    pairs = {(meta["concept"], meta["style"]) for meta in known}
    assert len({meta["concept"] for meta in known}) == 1015 and not pairs & {tuple(p) for p in splits["test_pairs"]}
    assert {style for _, style in pairs} == {"noto", "twemoji", "fluent", "blob", "emojione", "firefox", "streamline"}
    shown = text.compose(0).attributes
    assert not set(zip(shown["color"], shown["concept"])) & {tuple(pair) for pair in splits["held_out_colors"]}


def test_a_batch_can_be_repeated_and_is_of_about_unit_size(few):
    first, again = (text.batch(seeded(3), 32) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["z"].shape == (32, 4, 16, 16) and first["ids"].shape == (32, 32)
    index = torch.arange(5)
    z = text.batch(seeded(), 5, index=index)["z"]
    assert torch.equal(z, 0.7 * text.examples()["z"][:5].float())


def test_captions_are_of_every_kind():
    meta, rng = text.emoji().meta[0], np.random.default_rng(0)
    captions = [text.write_caption(meta, meta["color"], "night sky", rng) for _ in range(600)]
    assert 0.06 < np.mean([not c for c in captions]) < 0.15
    full = [c for c in captions if c]
    assert 0.4 < np.mean([c.isascii() for c in full]) < 0.6
    english = [c.lower() for c in full if c.isascii()]
    assert 0.25 < np.mean(["night sky" not in c and "style" not in c for c in english]) < 0.5
    assert any("under the night sky" in c for c in english)
    painted = [text.write_caption(meta, "purple", "white", rng).lower() for _ in range(200)]
    assert all(not c or "purple" in c or "紫" in c for c in painted), "what is painted is always said"


def test_plain_examples_are_on_white_and_in_their_own_colours(few):
    options = replace(text.SHIPPED, plain=1.0)
    index, shown = text.draw_index(64, seeded(), options), text.examples()
    assert len(text.plain_examples()) > 10 and set(index.tolist()) <= set(text.plain_examples().tolist())
    assert not shown["background"][index].any()
    for row in index.tolist():
        color = text.COLORS[shown["color"][row]]
        assert color in (None, text.emoji().meta[shown["index"][row]]["color"])


def test_a_mirror_turns_pictures_but_not_what_has_a_left_and_a_right(few):
    plain, turned = text.compose(0), text.compose(0, mirror=True)
    changed = [not np.array_equal(a, b) for a, b in zip(plain.masks, turned.masks)]
    assert 0.3 < np.mean(changed) < 0.6 and plain.captions == turned.captions
    for i in np.flatnonzero(changed):
        assert np.array_equal(plain.images[i, :, ::-1], turned.images[i])
        assert not text.ONE_SIDED.search(plain.attributes["concept"][i])


# ------------------------------------------------------------------ the loss
OPTIONS = {
    "shipped": {},
    "x0, weighed": {"prediction": "x0", "gamma": 5.0},
    "paired": {"pairing": True},
    "even steps": {"power": 1.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_reaches_every_weight_and_not_the_text_encoder(few, options):
    recipe = text.variant(replace(text.SHIPPED, **options))
    network = wide.make_unet(channels=(16, 24, 32))
    loss = recipe.loss(network, recipe.batch(seeded(), 8), seeded(1))
    loss.backward()
    assert 0 < loss.item() < 50
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad is None for p in text.text_encoder(torch.device("cpu")).parameters())


def test_latents_meet_the_nearest_noises_that_the_loss_will_draw():
    z, generator = random(24, 4, 2, 2), seeded(5)
    order = text.nearest_noises(z, generator)
    assert sorted(order.tolist()) == list(range(24))
    eps = torch.randn(z.shape, generator=generator)  # as the loss draws it: the generator has not moved
    assert torch.equal(eps, torch.randn(z.shape, generator=seeded(5)))
    paired, by_chance = (float((eps - x).square().sum()) for x in (z[order], z))
    assert paired < 0.95 * by_chance
    for _ in range(200):  # no exchange of two makes it shorter
        i, j = np.random.randint(24, size=2)
        swapped = order.clone()
        swapped[[i, j]] = order[[j, i]]
        assert float((eps - z[swapped]).square().sum()) >= paired - 1e-3


def test_what_lies_beside_the_latent_is_seen(few):
    network = wide.make_unet(in_channels=9, channels=(16, 24, 32))
    batch = text.batch(seeded(), 4) | {"cond_channels": random(4, 5, 16, 16)}
    other = batch | {"cond_channels": random(4, 5, 16, 16, seed=1)}
    assert text.loss(network, batch, seeded(1)) != text.loss(network, other, seeded(1))


def test_the_key_bears_the_autoencoder_and_the_number_of_chunks(few, monkeypatch):
    names = []
    monkeypatch.setattr(latent_base, "cached", lambda name, source, make: names.append(source) or {})
    for count, sha in ((2, "a"), (3, "a"), (2, "b")):
        monkeypatch.setattr(latent_base, "checkpoint_digest", lambda name, sha=sha: sha)
        latent_base.encode_in_chunks(text.compose, count, wide.VAE_NAME, "x")
    assert len(set(names)) == 3


# ------------------------------------------------------------------ its two companions
def test_inpainting_begins_as_the_text_to_picture_network(few):
    unet, plain = inpaint_clip.model().eval(), checkpoints.load(wide.NAME, wide.make_unet())
    zt, t, context = random(2, 4, 16, 16), torch.tensor([10, 900]), random(2, 32, wide.CONTEXT_DIM)
    with torch.no_grad():
        both = unet(torch.cat([zt, random(2, 5, 16, 16, seed=1)], dim=1), t, context), plain(zt, t, context)
    assert (both[0] - both[1]).abs().max() < 1e-4 * both[1].abs().max()


def test_what_lies_beside_the_latent_belongs_to_the_example(few, monkeypatch):
    """Where the mask hides nothing the kept latent is the example's own; lines are those of its picture."""
    for function in (inpaint_clip.examples, outline_clip.lines):
        function.cache_clear()
    assert (inpaint_clip.compose(1).images[inpaint_clip.masks(1)[:, 0] == 1] == 128).all()
    monkeypatch.setattr(inpaint_clip, "masks", lambda chunk: np.zeros((96, 1, 64, 64), np.float32))
    batch = inpaint_clip.batch(seeded(2), 8)
    assert batch["cond_channels"].shape == (8, 5, 16, 16) and not batch["cond_channels"][:, 0].any()
    assert torch.equal(batch["cond_channels"][:, 1:], batch["z"])
    index, drawn = text.draw_index(8, seeded(2)), outline_clip.batch(seeded(2), 8)
    lines = torch.nn.functional.pixel_shuffle(drawn["cond_channels"], outline_clip.FOLD)
    for line, i in zip(lines, index.tolist()):
        chunk = text.compose(i // 96)
        picture, alpha = chunk.images[i % 96], torch.from_numpy(chunk.masks[i % 96]) / 255
        assert torch.equal(line[None], outline(to_tensor(picture[None]), alpha[None, None]))
    for function in (inpaint_clip.examples, outline_clip.lines):
        function.cache_clear()


@pytest.mark.parametrize("name", wide.CONDITIONS)
def test_companions_have_their_channels_and_parents(name):
    assert wide.CONDITIONS[name]().conv_in.in_channels == {"inpaint-clip": 9, "outline-clip": 20}[name]
    assert set(find(name).requires) >= {wide.VAE_NAME, "clip"}
