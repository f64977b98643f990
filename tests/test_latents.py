"""Latents are made once, kept whole, and never mixed up; the recipes that learn from them show what they should."""

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.data import load_splits, to_tensor
from course_utils.datasets import latent_cache
from course_utils.decoder.vae import VAE
from course_utils.generator.conditions import blend_known, outline, shrink_mask
from course_utils.generator.schedules import make_schedule
from course_utils.recipes import inpaint
from course_utils.recipes import outline as lines
from course_utils.recipes import stable_diffusion as text
from course_utils.recipes.vae import composer
from course_utils.systems.stable_diffusion import CONDITIONS, make_unet
from course_utils.text_encoder.tokenizer import PAD_ID

RECIPES = (text, inpaint, lines)


@pytest.fixture
def few(monkeypatch, tmp_path):
    """The recipes with 96 examples, their latents in a folder of its own; afterwards all is forgotten."""
    monkeypatch.setattr(text, "EXAMPLES", 96)
    monkeypatch.setattr(latent_cache, "DATA_DIR", tmp_path)
    forget = (text.examples, inpaint.examples, lines.lines)
    [function.cache_clear() for function in forget]
    yield tmp_path
    [function.cache_clear() for function in forget]


# ------------------------------------------------------------------ made once and kept
def test_latents_are_what_the_autoencoder_says():
    vae = VAE().eval()
    images = composer().compose(70, seed=1).images
    mean, std = latent_cache.encode_all(vae, images)
    with torch.inference_mode():
        gaussian = vae.encode(to_tensor(images))
    assert mean.shape == std.shape == (70, 4, 16, 16)
    assert (mean - gaussian.mean).abs().max() < 2e-3 * gaussian.mean.abs().max()
    assert (std - (gaussian.logvar / 2).exp()).abs().max() < 2e-3


def counted():
    """A function that makes other tensors at every call, and the list of its calls."""
    calls = []

    def make():
        calls.append(1)
        return {"mean": torch.full((2, 3), float(len(calls)))}

    return make, calls


def test_latents_are_made_once_and_anew_when_damaged_or_of_other_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(latent_cache, "DATA_DIR", tmp_path)
    make, calls = counted()
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    source = latent_cache.digest(pictures, "vae of one kind")
    first, again = (latent_cache.cached("few", source, make)["mean"] for _ in range(2))
    assert torch.equal(first, again) and len(calls) == 1
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert latent_cache.cached("few", source, make)["mean"][0, 0] == 2
    other_pictures = latent_cache.digest(pictures + np.uint8(1), "vae of one kind")
    assert latent_cache.cached("few", other_pictures, make)["mean"][0, 0] == 3
    assert latent_cache.cached("few", latent_cache.digest(pictures, "another vae"), make)["mean"][0, 0] == 4
    assert latent_cache.cached("few", source, make)["mean"][0, 0] == 2  # the first are there still


def test_a_digest_tells_arrays_apart_by_shape_type_and_place():
    a = np.zeros((2, 3), np.uint8)
    others = (a.reshape(3, 2), a.astype(np.int8), a + np.uint8(1))
    assert len({latent_cache.digest(x) for x in (a, *others)}) == 4
    assert latent_cache.digest(a, others[2]) != latent_cache.digest(others[2], a)
    assert latent_cache.digest(a[:, ::-1]) == latent_cache.digest(a.copy())


def test_another_composer_gives_other_latents_and_outlines_know_no_autoencoder(few, monkeypatch):
    for make in (text.examples, inpaint.examples, lines.lines):
        make()
    names = {path.name for path in (few / "cache").iterdir()}
    assert {name.partition("-")[0] for name in names} == {"text", "inpaint", "outline"}
    monkeypatch.setattr(text, "compose", lambda: text.composer().compose(text.EXAMPLES, seed=7))
    text.examples.cache_clear()
    text.examples()
    (new,) = {path.name for path in (few / "cache").iterdir()} - names
    assert new.startswith("text-")
    card = checkpoints.card
    monkeypatch.setattr(checkpoints, "card", lambda name, folder=None: card(name, folder) | {"sha256": "0" * 64})
    before = lines.lines()
    lines.lines.cache_clear()
    monkeypatch.setattr(text, "compose", lambda: text.composer().compose(text.EXAMPLES, seed=6))
    assert torch.equal(lines.lines(), before)
    assert len([path for path in (few / "cache").iterdir() if path.name.startswith("outline")]) == 1


def test_where_the_data_cannot_be_written_a_temporary_folder_keeps_them(monkeypatch, tmp_path):
    (tmp_path / "data").write_text("a file, where a folder would have to be made")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(latent_cache, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(latent_cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    make, calls = counted()
    first, again = (latent_cache.cached("few", "0", make)["mean"] for _ in range(2))
    assert torch.equal(first, again) and len(calls) == 1
    assert [path.name for path in (tmp_path / "tmp").rglob("*.safetensors")] == ["few-0.safetensors"]
    monkeypatch.setattr(latent_cache.tempfile, "tempdir", str(tmp_path / "data"))  # nowhere at all
    assert latent_cache.cached("few", "0", make)["mean"][0, 0] == 2


# ------------------------------------------------------------------ the recipes
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.RECIPE.name)
def test_a_batch_can_be_repeated(few, recipe):
    first, again = (recipe.batch(torch.Generator().manual_seed(4), 12) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = recipe.batch(torch.Generator().manual_seed(5), 12)
    assert not torch.equal(first["z"], other["z"])
    assert first["z"].shape == (12, 4, 16, 16) and first["ids"].shape == (12, 32)
    assert set(first) - {"z", "ids"} == (set() if recipe is text else {"cond_channels"})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.RECIPE.name)
def test_one_step_reaches_every_weight(few, recipe):
    torch.manual_seed(0)
    network = recipe.model()
    batch = recipe.batch(torch.Generator().manual_seed(0), 8)
    recipe.RECIPE.loss(network, batch, torch.Generator().manual_seed(1)).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_latents_of_the_recipe_have_about_unit_variance(few):
    z = text.batch(torch.Generator().manual_seed(0), 64)["z"]
    assert abs(float(z.std()) - 1) < 0.1


def test_captions_are_in_both_languages_and_some_are_empty(few):
    ids = torch.cat([text.batch(torch.Generator().manual_seed(i), 64)["ids"] for i in range(8)])
    assert 0.05 < float((ids[:, 2] == PAD_ID).float().mean()) < 0.16  # start, end, filling
    rng = np.random.default_rng(0)
    captions = [text.write_caption(text.examples()[1][0], rng) for _ in range(60)]
    assert any(c.isascii() and c for c in captions) and any(not c.isascii() for c in captions)


def test_what_is_held_out_is_never_shown(few):
    splits = load_splits()
    known = text.emoji().meta
    assert len({m["concept"] for m in known}) == 128
    assert not {(m["concept"], m["style"]) for m in known} & {tuple(pair) for pair in splits["test_pairs"]}
    assert "3d" not in {m["style"] for m in known}
    held = {tuple(pair) for pair in splits["held_out_colors"]}
    assert not {(row["color"], row["concept"]) for row in text.examples()[1]} & held


def test_inpainting_begins_as_stable_diffusion(few):
    """With its new channels silent, the 9-channel U-Net answers as the one it comes from, whatever lies beside."""
    wide, plain = inpaint.model().eval(), checkpoints.load("stable-diffusion", make_unet())
    zt, context = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 128)
    t = torch.tensor([10, 900])
    with torch.no_grad():
        both = wide(torch.cat([zt, torch.randn(2, 5, 16, 16)], dim=1), t, context), plain(zt, t, context)
    assert (both[0] - both[1]).abs().max() < 1e-5


def test_masks_are_rectangles_of_every_size():
    masks = inpaint.random_masks(400, 64, np.random.default_rng(0))
    shares = masks.mean(axis=(1, 2, 3))
    assert set(np.unique(masks)) == {0.0, 1.0} and 0.15 < (shares == 1).mean() < 0.4 and shares.min() >= 1 / 16
    for mask in masks[:50, 0]:
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == rows * columns


# ------------------------------------------------------------------ the conditions
def test_outline_finds_edges_and_nothing_else():
    picture = torch.full((1, 3, 64, 64), 1.0)
    picture[:, 1:, 16:48, 16:48] = -1  # a red square on white
    drawn = outline(picture)[0, 0]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn[32, 32] == drawn[4, 4] == 0 and drawn[16, 30] == drawn[30, 47] == 1
    assert drawn.sum() == 2 * (34**2 - 32**2 + 32**2 - 30**2) / 2  # one pixel on each side of the edge
    sky = torch.randn(1, 3, 64, 64).clamp(-1, 1)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    assert torch.equal(outline(torch.where(mask > 0, picture, sky), mask)[0, 0], drawn)


def test_what_is_known_comes_back_at_the_noise_of_the_step():
    schedule, known, eps = make_schedule("cosine"), torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    mask = shrink_mask(torch.ones(2, 1, 64, 64).index_fill_(3, torch.arange(32), 0), (16, 16))
    assert mask.shape == (2, 1, 16, 16) and mask[..., :8].sum() == 0 and mask[..., 8:].min() == 1
    zt = torch.randn(2, 4, 16, 16)
    for t in (-1, 500):
        alpha_bar = float(schedule.alpha_bar[t]) if t >= 0 else 1.0
        signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        now = blend_known(zt, known, eps, mask, t, schedule)
        assert torch.equal(now[..., 8:], zt[..., 8:])
        assert (now[..., :8] - (signal * known + noise * eps)[..., :8]).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "channels"), [("inpaint", 9), ("outline", 20)])
def test_conditions_have_their_channels(name, channels):
    assert CONDITIONS[name]().conv_in.in_channels == channels
