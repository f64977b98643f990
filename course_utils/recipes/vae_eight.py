"""vae-eight: the autoencoder for pictures of all eight styles, whose decoder forgives what a generator gets wrong.

A latent that a U-Net has painted is never quite one that the encoder would give. What is left of its noise, a decoder
that has only seen perfect latents shows as mottling. So here the decoder learns from slightly noisy ones.
"""

from functools import lru_cache, partial

import torch

from course_utils.data import STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.perceptual import perceptual_distance
from course_utils.decoder.vae import VAE
from course_utils.recipes.vae import KL, SIZE, feature_net, measure
from course_utils.training import Recipe

PERCEPTUAL = 0.1  # weight of what the feature net sees: noise asks for blur, and this asks for edges
NOISE = 0.2  # most noise on the latents in training, in units of their standard deviation; the level is random


class NoisyVAE(VAE):
    """The autoencoder; in training, each latent gets noise of a level from 0 to `noise` before it is decoded."""

    def __init__(self, noise: float = NOISE):
        super().__init__()
        self.noise = noise

    def forward(self, x, generator=None):
        gaussian = self.encode(x)
        z = gaussian.sample(generator)
        if self.training:
            level = self.noise * torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
            scale = gaussian.mean.std()  # with its gradient: larger latents meet larger noise, so that none race away
            z = z + level * scale * torch.randn(z.shape, generator=generator).to(z)
        return self.decode(z), gaussian


def model():
    """Return the untrained network."""
    return NoisyVAE().to(memory_format=torch.channels_last)  # this layout is faster on CPUs


@lru_cache(maxsize=1)
def composer():
    """Return the source of the training pictures: all concepts of eight styles, any colour and background."""
    return Composer(load_emoji(SIZE, STYLES), languages=("en",), p_background=0.7, natural=0)


def batch(generator, n):
    """Compose n pictures."""
    return {"x0": to_tensor(composer().compose(n, seed=int(torch.randint(2**31, (), generator=generator))).images)}


def loss(network, batch, generator, weight=PERCEPTUAL):
    """Return the error of the pixels, what the feature net sees of it, and the KL, weighted as in notebook 05."""
    x0 = batch["x0"]
    x, gaussian = network(x0, generator=generator)
    gap = x - x0
    pixels = gap.abs().mean() + gap.square().mean()
    perceptual = perceptual_distance(feature_net(x0.device), x, x0).mean()
    return pixels + weight * perceptual + KL * gaussian.kl().mean() / gaussian.mean[0].numel()


RECIPE = Recipe(
    name="vae-eight",
    summary="the autoencoder for all eight styles: 64x64 pictures as 16x16 latents, and back",
    model=model,
    batch=batch,
    loss=loss,
    measure=partial(measure, source=composer),
    batch_size=16,
    lr=1e-3,  # every pixel teaches, so few pictures make a good step
    warmup=100,
    decay=0.3,
    time_share=2.0,
    requires=("perceptual",),
)
