"""stable-diffusion-clip: Stable Diffusion that reads with CLIP's text tower, and is wide enough for a thousand things.

prompt ──► CLIP's text tower, frozen ──► context (B, 32, 192) ──► U-Net ──► z (B, 4, 16, 16) ──► VAE's decoder

The system is `StableDiffusion`; this module says which three networks are in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from course_utils.errors import one_of
from course_utils.generator.latent_unet import LatentUNet
from course_utils.systems.clip import open_clip
from course_utils.systems.stable_diffusion import StableDiffusion, open_parts
from course_utils.systems.stage import Stage
from course_utils.text_encoder.clip import CLIPTextModel

NAME = "stable-diffusion-clip"
VAE_NAME = "vae-eight"
CONTEXT_DIM = 192  # width of CLIP's text tower


def make_unet(in_channels: int = 4, channels: tuple[int, ...] = (64, 128, 240)) -> LatentUNet:
    """Return an untrained U-Net for 16x16 latents: 15.3 M parameters, attention at 8x8 and at 4x4.

    in_channels: 4 and those beside the latent. 240 channels at 4x4: with 256 its file would be larger than 32 MB.
    """
    unet = LatentUNet(
        in_channels,
        4,
        channels=channels,
        num_res_blocks=1,
        attention=(False, True, True),
        num_heads=4,
        groups=8,
        context_dim=CONTEXT_DIM,
        pool_heads=4,
    )
    return unet.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


CONDITIONS = {  # what lies beside the four channels of the latent
    "inpaint-clip": lambda: make_unet(in_channels=4 + 1 + 4),  # mask, latent of what is kept
    "outline-clip": lambda: make_unet(in_channels=4 + 16, channels=(32, 64, 128)),  # 64x64 lines, folded 4 x 4
}


def open_text_encoder(device: torch.device | None = None, folder: str | Path | None = None) -> CLIPTextModel:
    """Return CLIP's text tower, whose weights stay as they are: Stable Diffusion 1.x reads with OpenAI's in this way.

    Its answer is the last layer's, after the final norm. Raises CheckpointError when CLIP is missing or damaged.
    """
    return open_clip(device, folder).text_model


def open_stable_diffusion(
    condition: str | None = None, device: torch.device | None = None, folder: str | Path | None = None
) -> StableDiffusion:
    """Return the system with the shipped weights, on the device.

    condition: None for text alone, or one of CONDITIONS, whose U-Net then takes the place of the first. folder: where
    to look first. Raises InputError for another condition, CheckpointError when a checkpoint is missing or damaged, or
    does not fit the U-Net.
    """
    unet = CONDITIONS[one_of("condition", condition, CONDITIONS)]() if condition else make_unet()
    return open_parts(unet, condition or NAME, VAE_NAME, "clip", open_text_encoder, device, folder)


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> tuple[Stage, ...]:
    """The stages of the system with the shipped weights; adapt(unet): puts a LoRA into its U-Net."""
    system = open_stable_diffusion(device=device, folder=folder)
    if adapt is not None:
        adapt(system.unet)
    return system.stages()
