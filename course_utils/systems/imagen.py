"""Imagen: a frozen language model reads, a U-Net paints 16x16 pixels, and a cascade enlarges them twice.

prompt ──► language model, frozen ──► context (B, 32, 384) ──┬──► base: 16x16 ──► SR1: 64x64 ──► (SR2: 256x256)
                                                             └──────────────────────┘
The third stage reads no text and enlarges any system's pictures: `super_resolution.open_sr2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from course_utils import checkpoints
from course_utils.data import text_encoder_files
from course_utils.decoder.super_resolution import EfficientUNet
from course_utils.errors import GUIDANCE, CheckpointError, number, prompt_list
from course_utils.generator.guidance import guided
from course_utils.generator.objectives import Model
from course_utils.generator.pixel_unet import PixelUNet
from course_utils.generator.samplers import dpmpp_2m
from course_utils.generator.schedules import make_schedule
from course_utils.generator.thresholding import dynamic_threshold, thresholded
from course_utils.systems.clip import open_clip
from course_utils.systems.stage import Stage, spread
from course_utils.systems.super_resolution import SuperResolution
from course_utils.systems.text_pixel import tokenize
from course_utils.text_encoder.frozen import FrozenText, e5
from course_utils.text_encoder.tokenizer import MAX_TOKENS

CONTEXT_DIM = 384  # width of the language model
SIZE, SR1_SIDE = 16, 64  # pixels a side of the first two stages: a quarter of the paper's
SCHEDULE = make_schedule("cosine")
PREDICTION = "v"
SR1_STD = 0.17  # standard deviation of what bicubic enlarging from 16 to 64 pixels misses


@dataclass(frozen=True)
class Imagen:
    """The language model, the base and the first super-resolution stage. Saharia et al. 2022. Built in notebook 09."""

    text: FrozenText
    base: PixelUNet
    sr1: SuperResolution
    threshold: Callable[[torch.Tensor], torch.Tensor] = dynamic_threshold

    def conditioned_model(
        self, prompts: str | Sequence[str], guidance: float, negative: str | Sequence[str] | None = None
    ) -> Model:
        """The model (xt, t) -> x0 of the base for B prompts, thresholded at every step.

        negative: one to move away from, or B (None: no text at all, zeros).
        """
        context, guidance = self.text.encode(prompts), number("guidance", guidance, GUIDANCE)
        away = [""] if negative is None else prompt_list(negative, what="negative prompt")
        away = spread("negative prompts", self.text.encode(away), len(context))
        every = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)  # what is not said is zero
        model = guided(self.base, context, every, guidance, away, every)
        return thresholded(model, SCHEDULE, PREDICTION, self.threshold)

    def stages(self) -> tuple[Stage, ...]:
        """The system as two stages: 16x16 pixels from noise, then 64x64."""

        def model(prompts, guidance, negative, before):
            return self.conditioned_model(prompts, guidance, negative)

        def sampler(model, xT, steps):
            return dpmpp_2m(model, xT, SCHEDULE, steps, "x0", clip=False)

        base = Stage(f"{SIZE}x{SIZE}", (3, SIZE, SIZE), model, sampler, lambda x: x.clamp(-1, 1))
        return base, self.sr1.stage(self.text.encode)


def make_base(context_dim: int = CONTEXT_DIM, channels: tuple[int, ...] = (64, 128, 224)) -> PixelUNet:
    """The untrained base, attention at 8x8 and at 4x4. With 240 channels there its file would be larger than 32 MB.

    context_dim: of another text encoder.
    """
    unet = PixelUNet(
        channels=channels,
        num_res_blocks=1,
        attention=(False, True, True),
        num_heads=4,
        groups=8,
        context_dim=context_dim,
        pool_heads=4,
    )
    return unet.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


def make_sr1() -> EfficientUNet:
    """The untrained network that enlarges 16 to 64 pixels: it attends, also to the text, at its smallest size."""
    unet = EfficientUNet(
        channels=(32, 64, 128),
        num_blocks=(2, 4, 4),
        attention=(False, False, True),
        context_dim=CONTEXT_DIM,
    )
    return unet.to(memory_format=torch.channels_last)


def open_text(device: torch.device | str | None = None, num_layers: int | None = None) -> FrozenText:
    """The shipped language model; num_layers: the first so many of its 12. DataError if it is missing or altered."""
    return e5(*text_encoder_files(), num_layers, device=device)


def clip_text(device: torch.device | str | None = None, folder: str | Path | None = None) -> FrozenText:
    """CLIP's text tower of notebook 07 as a frozen text encoder: it has seen our captions, and no other text."""
    clip, device = open_clip(device, folder), torch.device(device or "cpu")
    dim = clip.text_projection.in_features
    return FrozenText(lambda ids, mask: clip.text_model(ids), tokenize, dim, MAX_TOKENS, device)


def text_digest() -> str:
    """The SHA-256 of the shipped language model: cards of what learnt with it bear it."""
    return checkpoints.sha256(text_encoder_files()[0])


def load_reader(name: str, network: nn.Module, device: torch.device | None, folder: str | Path | None) -> nn.Module:
    """A trained network that reads what the language model says; CheckpointError if it learnt with another one."""
    network = checkpoints.load(name, network, device, folder)
    if checkpoints.card(name, folder).get("text_encoder") not in (None, text_digest()):
        raise CheckpointError(
            f"{name}.safetensors learnt with another language model than data/text_encoder.safetensors: `course train "
            f"{name} --minutes 60 --replace` makes it fit, or `git checkout -- data` brings the shipped ones back"
        )
    return network


def open_imagen(device: torch.device | None = None, folder: str | Path | None = None) -> Imagen:
    """The system with the shipped weights. Raises CheckpointError when a checkpoint is missing or damaged."""
    base = load_reader("imagen-base", make_base(), device, folder)
    sr1 = load_reader("imagen-sr1", make_sr1(), device, folder)
    return Imagen(open_text(device), base, SuperResolution(sr1, SR1_SIDE, SR1_STD, steps=12, level=0.05))


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> tuple[Stage, ...]:
    """The stages of the system with the shipped weights, up to 64x64 pixels."""
    return open_imagen(device, folder).stages()
