"""The shipped autoencoder and its feature net: as faithful as their cards say, of known scale, and open to others."""

import copy
from functools import lru_cache

import pytest
import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.perceptual import FeatureNet
from course_utils.decoder.vae import VAE
from course_utils.evaluation.metrics import psnr
from course_utils.evaluation.report import from_card
from course_utils.evaluation.report_vae import evaluate_vae
from course_utils.interop.diffusers import to_vae
from course_utils.recipes import perceptual, stable_diffusion, vae


@lru_cache(maxsize=1)
def shipped():
    """The autoencoder that comes with the course."""
    return checkpoints.load("vae", vae.model())


def held_out(n):
    """Pictures (n, 3, 64, 64) that training never showed, every one with a background."""
    composer = Composer(load_emoji(vae.SIZE, FIRST_STYLES, split="test"), languages=("en",), p_background=1.0)
    return to_tensor(composer.compose(n, seed=0).images)


# ------------------------------------------------------------------ decibels
def test_psnr_of_known_errors_and_equal_pictures():
    """An error of one tenth of the range makes 20 dB, of one hundredth 40 dB; each picture has its own number."""
    x = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    error = torch.tensor([0.0, 0.2, -0.2, 0.02]).view(-1, 1, 1, 1)
    assert psnr(x, x + error).tolist() == pytest.approx([float("inf"), 20, 20, 40], abs=1e-4)
    sizes = torch.tensor([0.0, 0.4]).expand(3, 8, 6, 2).reshape(3, 8, 12)  # half of the pixels twice as far off
    assert psnr(x[:1], x[:1] + sizes).item() == pytest.approx(20 - 10 * torch.tensor(2.0).log10().item(), abs=1e-4)


# ------------------------------------------------------------------ the shipped autoencoder
@torch.inference_mode()
def test_held_out_pictures_with_backgrounds_come_back():
    x = held_out(64)
    y = torch.cat([shipped().decode(shipped().encode(part).mean) for part in x.split(32)]).clamp(-1, 1)
    assert psnr(x, y).mean() >= 27


def test_the_card_says_what_evaluation_finds():
    """Recomputed with a fifth of the pictures; the evaluator names as many things after the autoencoder as before."""
    card = checkpoints.card("vae")["metrics"]
    for row, figures in evaluate_vae(100).items():
        written = from_card(card[row.replace("100", "500")])
        assert set(figures) == set(written)
        assert figures["psnr"] == pytest.approx(written["psnr"], abs=0.7 if "held out" in row else 1.0), row
        assert figures["perceptual"] == pytest.approx(written["perceptual"], abs=0.01), row
        assert figures["concept"] == pytest.approx(written["concept"], abs=0.12), row
        assert figures["concept"] == pytest.approx(figures["concept_real"], abs=0.05), row


@torch.inference_mode()
@pytest.mark.parametrize(("source", "within"), [("stable-diffusion", 0.03), ("vae", 0.05)])
def test_scale_is_that_of_the_latents(source, within):
    """Nearest for what Stable Diffusion learns from, larger subjects than the autoencoder's own pictures show."""
    composer = {
        "stable-diffusion": stable_diffusion.composer,
        "vae": vae.composer,
    }[source]()
    parts = to_tensor(composer.compose(256, seed=6).images).split(32)
    generator = torch.Generator().manual_seed(0)
    z = torch.cat([shipped().encode(part).sample(generator) for part in parts])
    assert z.shape == (256, 4, 16, 16)
    assert float(checkpoints.scaling_factor() * z.std()) == pytest.approx(1, abs=within)
    assert (z.std(dim=(0, 2, 3)) > 3 * z.std() / 10).all(), "no channel is silent"


@torch.inference_mode()
def test_the_weights_open_in_diffusers():
    """Strictly, with the same latents and the same pictures."""
    ours, x = checkpoints.load("vae", VAE()), held_out(4)
    theirs = to_vae(ours, vae.SIZE, checkpoints.scaling_factor())
    assert theirs.config.scaling_factor == checkpoints.scaling_factor() == 0.354
    gaussian, peer = ours.encode(x), theirs.encode(x).latent_dist
    assert (gaussian.mean - peer.mean).abs().max() < 1e-4 * peer.mean.abs().max()
    assert (ours.decode(gaussian.mean) - theirs.decode(peer.mean).sample).abs().max() < 1e-4


def test_what_the_recipe_measures_is_the_scale_of_the_latents():
    """Its own pictures, with smaller subjects than Stable Diffusion's, give a factor within 5 % of the card's."""
    assert vae.RECIPE.measure(shipped())["scaling_factor"] == pytest.approx(checkpoints.scaling_factor(), rel=0.05)


@pytest.mark.parametrize(("recipe", "network"), [(vae, shipped), (perceptual, perceptual.model)])
def test_a_step_of_the_recipe_reaches_every_weight(recipe, network):
    """The batch can be repeated, the loss is finite, and its gradient reaches every weight of the network."""
    network = copy.deepcopy(network()).train().requires_grad_(True)
    first, again = (recipe.batch(torch.Generator().manual_seed(3), 4) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    loss = recipe.loss(network, first, torch.Generator().manual_seed(1))
    loss.backward()
    assert 0 < float(loss) < 20
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_loss_of_a_good_autoencoder_is_smaller_than_that_of_a_new_one():
    batch = vae.batch(torch.Generator().manual_seed(3), 4)
    with torch.no_grad():
        good, new = (
            float(vae.loss(network, batch, torch.Generator().manual_seed(1))) for network in (shipped(), vae.model())
        )
    assert good < 0.15 and good < new / 3


# ------------------------------------------------------------------ the feature net
@torch.inference_mode()
def test_the_feature_net_has_learned_what_is_shown():
    """It names about every other of 1,015 concepts: enough to see edges, textures and shapes."""
    net, batch = checkpoints.load("perceptual", FeatureNet()), perceptual.batch(torch.Generator().manual_seed(0), 256)
    best = torch.cat([net(part) for part in batch["x"].split(64)]).topk(5).indices == batch["concept"][:, None]
    assert best[:, 0].float().mean() > 0.4
    assert best.any(dim=1).float().mean() > 0.65
