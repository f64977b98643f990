"""vae: paints 64x64 pictures as 16x16 latents and back. The autoencoder of notebook 05."""

from functools import lru_cache

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.vae import VAE
from course_utils.training import Recipe

SIZE = 64  # pixels a side
PERCEPTUAL = 0.02  # weight of what the feature net sees: it sharpens edges, and costs a little PSNR
KL = 1e-5  # weight of the KL for each number of the latent. At 1e-3 one of the four channels died: all noise, no news


def model():
    """Return the untrained network."""
    return VAE().to(memory_format=torch.channels_last)  # this layout is faster on CPUs


@lru_cache(maxsize=1)
def composer():
    """Return the source of the training pictures: all concepts of three styles, any colour and background."""
    return Composer(load_emoji(SIZE, FIRST_STYLES), languages=("en",), p_background=0.7, natural=0)


@lru_cache(maxsize=1)
def feature_net(device):
    """Return the trained feature net, whose weights stay as they are."""
    return checkpoints.load("perceptual", FeatureNet(), device).requires_grad_(False)


def batch(generator, n):
    """Compose n pictures."""
    return {"x0": to_tensor(composer().compose(n, seed=int(torch.randint(2**31, (), generator=generator))).images)}


def loss(network, batch, generator):
    """Return the error of the pixels, what the feature net sees of it, and the KL, weighted."""
    x0 = batch["x0"]
    x, gaussian = network(x0, generator=generator)
    gap = x - x0
    pixels = gap.abs().mean() + gap.square().mean()  # L1 keeps edges sharp, L2 forbids a wrong colour on a large area
    perceptual = perceptual_distance(feature_net(x0.device), x, x0).mean()
    return pixels + PERCEPTUAL * perceptual + KL * gaussian.kl().mean() / gaussian.mean[0].numel()


@torch.inference_mode()
def measure(network, source=composer):
    """Return the scaling factor, 1 / standard deviation of the latents of 512 training pictures: LDM, appendix G."""
    images = source().compose(512, seed=0).images
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(0)
    z = [network.encode(to_tensor(part).to(device)).sample(generator).cpu() for part in np.split(images, 16)]
    return {"scaling_factor": round(1 / float(torch.cat(z).std()), 4)}


RECIPE = Recipe(
    name="vae",
    summary="the autoencoder that turns 64x64 pictures into 16x16 latents and back",
    model=model,
    batch=batch,
    loss=loss,
    measure=measure,
    batch_size=8,
    lr=1e-3,  # every pixel teaches, so few pictures make a good step
    time_share=2.0,
    requires=("perceptual",),
)
