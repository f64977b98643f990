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
from course_utils.datasets.compose import Batch
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
