"""The autoencoder for eight styles: the same network, taught with noise on its latents, and how that is measured."""

import pytest
import torch

from course_utils import checkpoints
from course_utils.data import STYLES, to_tensor
from course_utils.decoder.vae import VAE
from course_utils.evaluation import report_vae
from course_utils.evaluation.metrics import psnr
from course_utils.evaluation.report import table
from course_utils.recipes import vae_eight
from course_utils.recipes.catalog import find


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_all_eight_styles_are_shown_and_no_test_picture():
    assert {meta["style"] for meta in vae_eight.composer().emoji.meta} == set(STYLES)
    assert find("vae-eight").requires == ("perceptual",)


def test_the_weights_are_the_autoencoders_and_noise_is_for_training_alone():
    torch.manual_seed(0)
    noisy, plain = vae_eight.NoisyVAE(0.5), VAE()
    plain.load_state_dict(noisy.state_dict())
    x = to_tensor(vae_eight.composer().compose(4, seed=0).images)
    with torch.no_grad():
        assert torch.equal(noisy.eval()(x, seeded())[0], plain(x, seeded())[0])
        trained = noisy.train()(x, seeded())[0]
        assert not torch.allclose(trained, plain(x, seeded())[0])
        noisy.noise = 0.0
        assert torch.allclose(noisy(x, seeded())[0], plain(x, seeded())[0], atol=1e-6)


def test_a_step_reaches_every_weight_and_can_be_repeated():
    torch.manual_seed(0)
    network = vae_eight.model()
    first, again = (vae_eight.batch(seeded(3), 4) for _ in range(2))
    assert torch.equal(first["x0"], again["x0"])
    loss = vae_eight.loss(network, first, seeded(1))
    loss.backward()
    assert 0 < loss.item() < 20 and loss.item() == vae_eight.loss(network, first, seeded(1)).item()
    assert vae_eight.loss(network, first, seeded(1), weight=1.0).item() > loss.item()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_its_scale_is_measured_on_its_own_pictures():
    torch.manual_seed(0)
    measured = vae_eight.RECIPE.measure(vae_eight.model().eval())
    assert set(measured) == {"scaling_factor"} and measured["scaling_factor"] > 0


@torch.inference_mode()
def test_every_axis_of_its_latents_says_something():
    """Channels that echo each other hide an idle axis from their spreads: the smallest principal one must cost."""
    vae, x = checkpoints.load("vae-eight", VAE()), to_tensor(vae_eight.composer().compose(64, seed=1).images)
    z = vae.encode(x).mean
    flat = z.transpose(0, 1).flatten(1)
    values, axes = torch.linalg.eigh(torch.cov(flat))
    assert values[0].sqrt() > 0.3 * values[-1].sqrt()
    axis = axes[:, 0].view(1, 4, 1, 1)
    along = ((z - flat.mean(1).view(1, 4, 1, 1)) * axis).sum(dim=1, keepdim=True) * axis
    assert (psnr(x, vae.decode(z)) - psnr(x, vae.decode(z - along))).mean() > 1


# ------------------------------------------------------------------ how it is measured
def test_fine_energy_sees_pixels_and_no_areas():
    flat = torch.full((1, 3, 8, 8), 0.3)
    steps = flat.clone()
    steps[..., 4:] = -0.7  # an edge between two blocks of 2 x 2
    checks = flat + 0.2 * (torch.arange(8) % 2 * 2.0 - 1)
    energy = report_vae.fine_energy(torch.cat([flat, steps, checks]))
    assert energy[0] == pytest.approx(0, abs=1e-9) and energy[1] == pytest.approx(0, abs=1e-9)
    assert energy[2] == pytest.approx(0.04, rel=1e-4)


def test_noise_on_the_latents_costs_decibels_and_leaves_mottling():
    vae, x = checkpoints.load("vae", VAE()), to_tensor(vae_eight.composer().compose(16, seed=0).images)
    clean, noisy = (report_vae.repainted(vae, x, noise) for noise in (0.0, 0.3))
    assert (clean - x).square().mean() < (noisy - x).square().mean()
    assert report_vae.fine_energy(noisy).mean() > report_vae.fine_energy(clean).mean()


def test_the_table_has_a_row_for_every_style():
    rows = report_vae.evaluate_vae_eight(8, name="vae")
    assert len(rows) == 4 + len(STYLES) and all(row["psnr"] > 15 for row in rows.values())
    assert rows["held out, noise 0.1, 8"]["psnr"] < rows["held out, 8"]["psnr"]
    assert "fine details" in table(rows)
