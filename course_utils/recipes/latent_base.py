"""What all recipes that learn on latents share: examples made into latents once, captions, and the loss.

Composer ──► pictures ──► encode_examples ──► sample_latents ──► latent_loss
                              (kept on disk)      z
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from course_utils import checkpoints
from course_utils.data import data_sums
from course_utils.datasets.compose import BACKGROUNDS, WORDS_ZH, Batch
from course_utils.datasets.latent_cache import cached, digest, encode_all
from course_utils.decoder.vae import VAE
from course_utils.finetune.lora import ALL_TARGETS, inject
from course_utils.generator.conditions import concat_condition
from course_utils.generator.latent_unet import LatentUNet
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.systems.stable_diffusion import PREDICTION, SCHEDULE, make_unet, open_text_encoder

RANK = 16  # of LoRAs: 1.4 MB in half precision
TIMESTEP_POWER = 0.6  # t = T u^0.6: the noisy steps, where only the text tells what to draw, come more often


def lora_unet() -> LatentUNet:
    """Return the trained U-Net, frozen, with LoRA branches that learn: what recipes of LoRAs train."""
    unet = checkpoints.load("stable-diffusion", make_unet())
    inject(unet, ALL_TARGETS, RANK, generator=torch.Generator().manual_seed(0))
    return unet


@lru_cache(maxsize=1)
def text_encoder(device: torch.device) -> nn.Module:
    """Return the frozen text encoder."""
    return open_text_encoder(device)


def checkpoint_digest(name: str) -> str:
    """Return the SHA-256 of a checkpoint at hand, as its card has it."""
    return checkpoints.card(name)["sha256"]


def encode_examples(composed: Batch, name: str) -> tuple[dict, list[dict]]:
    """Return composed examples as latents, {"mean", "std"} (N, 4, h, w), kept under a name, and what each shows."""
    attributes = [dict(zip(composed.attributes, row)) for row in zip(*composed.attributes.values())]

    def make():
        mean, std = encode_all(checkpoints.load("vae", VAE()), composed.images)
        return {"mean": mean, "std": std}

    return cached(name, digest(composed.images, checkpoint_digest("vae")), make), attributes


COLORS = (None, *WORDS_ZH)  # as numbers of a tensor


def attribute_numbers(shown: dict[str, list]) -> dict[str, torch.Tensor]:
    """Return what N examples show, from `Batch.attributes`, as numbers (N,) in the emoji, COLORS and BACKGROUNDS."""
    return {
        "index": torch.tensor(shown["index"], dtype=torch.int32),
        "color": torch.tensor([COLORS.index(color) for color in shown["color"]], dtype=torch.uint8),
        "background": torch.tensor([BACKGROUNDS.index(place) for place in shown["background"]], dtype=torch.uint8),
    }


def encode_in_chunks(compose: Callable[[int], Batch], count: int, vae_name: str, name: str) -> dict[str, torch.Tensor]:
    """Return `count` chunks of examples as latents, kept under a name, with the numbers that tell what each shows.

    compose(k): the k-th chunk, always the same; only one is held at a time. Returns the `attribute_numbers`, and "z",
    the Gaussians' means (N, 4, h, w), float16. The means alone: our autoencoders' standard deviations are 0.3 % of
    their latents'. The file bears what was encoded: the first chunk, their number, the sums of the data, and the
    autoencoder.
    """
    first = compose(0)

    def make():
        vae = checkpoints.load(vae_name, VAE().to(memory_format=torch.channels_last))
        parts = []
        for k in range(count):
            chunk = compose(k) if k else first
            z = encode_all(vae, chunk.images)[0].contiguous()
            parts.append({"z": z, **attribute_numbers(chunk.attributes)})
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    source = digest(first.images, first.attributes, count, data_sums(), checkpoint_digest(vae_name))
    return cached(name, source, make)


def sample_latents(latents: dict[str, torch.Tensor], index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw from the autoencoder's Gaussians of some examples, (n,) -> (n, 4, h, w)."""
    mean, std = latents["mean"][index].float(), latents["std"][index].float()
    return mean + std * torch.randn(mean.shape, generator=generator)


def latent_loss(network: Callable, z: torch.Tensor, generator: torch.Generator, **conditions) -> torch.Tensor:
    """Return the error of the predicted velocity on noisy versions of latents (n, 4, h, w)."""
    t = sample_timesteps(len(z), SCHEDULE.num_steps, TIMESTEP_POWER, generator)
    return diffusion_loss(network, z, SCHEDULE, PREDICTION, generator, t=t, **conditions)


def text_loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the error of the predicted velocity, given the captions, and what lies beside the latent, if anything."""
    model = concat_condition(network, batch["cond_channels"]) if "cond_channels" in batch else network
    context = text_encoder(batch["ids"].device)(batch["ids"])
    return latent_loss(model, batch["z"], generator, context=context)
