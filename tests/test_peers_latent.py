"""Autoencoder and latent U-Net equal diffusers' on random tiny weights; the losses are what their names say."""

import pytest
import torch

from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.vae import VAE, Gaussian
from course_utils.generator.latent_unet import LatentUNet
from tests.test_peers_unet import TOLERANCE, compare, randomise, swap_weights

VAES = {
    "2 levels, 2 blocks": {"channels": (8, 16), "latent_channels": 4, "num_blocks": 2, "groups": 4},
    "3 levels, 1 block": {"channels": (8, 16, 24), "latent_channels": 3, "num_blocks": 1, "groups": 8},
    "3 levels, 2 blocks": {"channels": (8, 8, 16), "latent_channels": 4, "num_blocks": 2, "groups": 8},
}


def autoencoders(channels, latent_channels, num_blocks, groups):
    """Our autoencoder and diffusers', with the same random weights."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    theirs = AutoencoderKL(
        block_out_channels=channels,
        latent_channels=latent_channels,
        layers_per_block=num_blocks,
        norm_num_groups=groups,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    )
    ours = VAE(channels, latent_channels, num_blocks, groups)
    swap_weights(ours, randomise(theirs))
    return ours, theirs


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs):
    """Equal to TOLERANCE of the size of what is compared."""
    return (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("shape", VAES.values(), ids=VAES)
def test_autoencoder(shape):
    ours, theirs = autoencoders(**shape)
    x = random(2, 3, 16, 24).clamp(-1, 1)
    with torch.no_grad():
        gaussian, answer = ours.encode(x), theirs.encode(x).latent_dist
        side = 2 ** (len(shape["channels"]) - 1)
        assert gaussian.mean.shape == (2, shape["latent_channels"], 16 // side, 24 // side)
        assert close(gaussian.mean, answer.mean) and close(gaussian.logvar, answer.logvar)
        z, peer = (g.sample(torch.Generator().manual_seed(3)) for g in (gaussian, answer))
        assert close(z, peer) and close(gaussian.kl(), answer.kl())
        assert close(ours.decode(z), theirs.decode(peer).sample)


@pytest.mark.parametrize("shape", VAES.values(), ids=VAES)
def test_autoencoder_gradients(shape):
    ours, theirs = autoencoders(**shape)
    x = random(2, 3, 16, 16).clamp(-1, 1)
    compare(
        ours,
        theirs,
        lambda m: m(x, torch.Generator().manual_seed(3))[0],
        lambda m: m(x, sample_posterior=True, generator=torch.Generator().manual_seed(3)).sample,
    )


def test_extreme_variances_stay_finite():
    """An untrained encoder may answer anything: the logarithm of the variance is clamped as LDM does."""
    ours, theirs = autoencoders(**VAES["2 levels, 2 blocks"])
    with torch.no_grad():
        for model in (ours, theirs):
            model.quant_conv.weight.mul_(1e4)
        gaussian, answer = ours.encode(x := random(1, 3, 8, 8)), theirs.encode(x).latent_dist
    assert gaussian.logvar.min() == -30 and gaussian.logvar.max() == 20
    assert close(gaussian.logvar, answer.logvar) and gaussian.sample().isfinite().all()


def test_sizes_of_stable_diffusion():
    """With its numbers, our modules have as many parameters as Stable Diffusion 1.x."""
    with torch.device("meta"):
        vae = VAE((128, 256, 512, 512), 4, num_blocks=2, groups=32)
        unet = LatentUNet(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), num_heads=8, context_dim=768)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964


# ------------------------------------------------------------------ the U-Net
UNETS = {
    "as in the course": {"attention": (False, True, False), "pool": 4, "blocks": 1, "in_channels": 4},
    "inpainting": {"attention": (False, True), "pool": 2, "blocks": 2, "in_channels": 9},
    "Stable Diffusion 1.x": {"attention": (True, True, True, False), "pool": None, "blocks": 2, "in_channels": 4},
}


@pytest.mark.parametrize("case", UNETS.values(), ids=UNETS)
def test_latent_unet(case):
    from diffusers import UNet2DConditionModel

    channels = (16, 32, 32, 32)[: len(case["attention"])]
    added = {"addition_embed_type": "text", "addition_embed_type_num_heads": case["pool"]} if case["pool"] else {}
    theirs = UNet2DConditionModel(
        in_channels=case["in_channels"], out_channels=4, block_out_channels=channels, layers_per_block=case["blocks"],
        norm_num_groups=8, cross_attention_dim=24, attention_head_dim=4, **added,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in case["attention"]],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(case["attention"])],
    )  # fmt: skip  # attention_head_dim means the number of heads
    ours = LatentUNet(
        case["in_channels"],
        4,
        channels,
        case["blocks"],
        case["attention"],
        num_heads=4,
        groups=8,
        context_dim=24,
        pool_heads=case["pool"],
    )
    swap_weights(ours, randomise(theirs))
    x, t, context = random(2, case["in_channels"], 16, 16), torch.tensor([3, 700]), random(2, 7, 24, seed=1)
    compare(ours, theirs, lambda m: m(x, t, context), lambda m: m(x, t, context).sample)


def test_pooled_text_reaches_every_block():
    """A word changes the step's vector when there is pooling, and does not without."""
    for pool in (2, None):
        unet = randomise(
            LatentUNet(4, 4, (8, 16), 1, (False, True), num_heads=2, groups=4, context_dim=8, pool_heads=pool)
        )
        t, words = torch.tensor([10]), [random(1, 5, 8, seed=seed) for seed in (0, 1)]
        same = torch.equal(*[unet.embed(t, added=word) for word in words])
        assert same == (pool is None)


# ------------------------------------------------------------------ the losses
def test_kl_is_that_of_torch_distributions():
    from torch.distributions import Normal, kl_divergence

    mean, logvar = random(5, 4, 3, 3), random(5, 4, 3, 3, seed=1)
    wanted = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    assert close(Gaussian(mean, logvar).kl(), wanted)
    assert (Gaussian(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).kl() == 0).all()


def test_samples_have_the_mean_and_the_variance_they_are_drawn_with():
    mean, logvar = torch.full((1, 1, 200, 200), 2.0), torch.full((1, 1, 200, 200), -1.0)
    z = Gaussian(mean, logvar).sample(torch.Generator().manual_seed(0))
    assert abs(z.mean() - 2) < 0.02 and abs(z.var() - torch.tensor(-1.0).exp()) < 0.02


class Louder(FeatureNet):
    """The same network whose features are larger, in every layer by another factor."""

    def features(self, x):
        return [(3 + i) * features for i, features in enumerate(super().features(x))]


def test_perceptual_distance_is_a_distance():
    torch.manual_seed(0)
    net, louder = FeatureNet(num_concepts=7).eval(), Louder(num_concepts=7).eval()
    louder.load_state_dict(net.state_dict())
    x, y = random(3, 3, 16, 16), random(3, 3, 16, 16, seed=1)
    with torch.no_grad():
        distance = perceptual_distance(net, x, y)
        assert distance.shape == (3,) and (distance > 0).all()
        assert torch.equal(perceptual_distance(net, x, x), torch.zeros(3))
        assert close(perceptual_distance(net, y, x), distance)
        assert close(perceptual_distance(louder, x, y), distance), "only directions of feature vectors count"
        near = perceptual_distance(net, x, x + 0.05 * (y - x))
        assert (near < distance).all()
        assert close(perceptual_distance(net, x[1:2], y[1:2]), distance[1:2]), "each picture has a number of its own"


def test_perceptual_distance_tells_which_way_to_go():
    """Its gradient leads from one picture towards the other, as a loss must; nothing is lost at equality."""
    torch.manual_seed(0)
    net = FeatureNet(num_concepts=7).eval().requires_grad_(False)
    y, x = random(2, 3, 16, 16), random(2, 3, 16, 16, seed=1).requires_grad_()
    before = perceptual_distance(net, x, y).sum()
    (gradient,) = torch.autograd.grad(before, x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    with torch.no_grad():
        assert perceptual_distance(net, x - 1e-2 * gradient / gradient.abs().max(), y).sum() < before
    same = y.clone().requires_grad_()
    (at_rest,) = torch.autograd.grad(perceptual_distance(net, same, y).sum(), same)
    assert (at_rest == 0).all()
