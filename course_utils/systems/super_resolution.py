"""The stage that enlarges: two of Imagen's three, and the last of every system that is asked for 256 pixels.

what the stage before made ──► augment, enlarge ──► low ──► Efficient U-Net, some steps ──► a larger picture
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.decoder.super_resolution import EfficientUNet, augment, enlarge, from_residual
from course_utils.errors import number
from course_utils.generator.samplers import State, dpmpp_2m
from course_utils.generator.schedules import make_schedule
from course_utils.systems.stage import Stage, spread

SCHEDULE = make_schedule("cosine")
PREDICTION = "v"  # of the residual: after equal steps 24.4 dB, where x0, which copies small noise badly, had 22.6
SR2_SIDE = 256


@dataclass(frozen=True)
class Enlarger:
    """A model (rt, t) -> prediction of the residual of some pictures, as samplers want it; `picture` adds it to them.

    low: (B, 3, H, W), enlarged already; level: (B,), how noisy it is; context: (B, L, D), or None.
    """

    unet: EfficientUNet
    residual_std: float
    low: torch.Tensor
    level: torch.Tensor
    context: torch.Tensor | None = None

    def __call__(self, rt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.unet(rt, t, low=self.low, level=self.level, context=self.context)

    def picture(self, residual: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, H, W) that residuals stand for."""
        return from_residual(residual, self.low, self.level, self.residual_std)


def sample_enlarged(model: Enlarger, rT: torch.Tensor, steps: int) -> Iterator[State]:
    """From noise rT (B, 3, H, W) to residuals; yields States whose xt and x0 are the pictures they make."""
    for state in dpmpp_2m(model, rT, SCHEDULE, steps, PREDICTION, clip=False):
        yield State(state.step, state.t, model.picture(state.xt), model.picture(state.x0))


@dataclass(frozen=True)
class SuperResolution:
    """A trained Efficient U-Net and how it is used. Imagen, sections 2.3 and 2.5. Built in notebook 09.

    side: of the pictures it paints; residual_std: what residuals were divided by in training; steps: of its sampler;
    level: noise that hides the faults of what it enlarges, 0 to 1.
    """

    unet: EfficientUNet
    side: int
    residual_std: float
    steps: int
    level: float = 0.0

    def conditioned_model(
        self, small: torch.Tensor, context: torch.Tensor | None = None, level: float | None = None
    ) -> Enlarger:
        """The model for small pictures (B, 3, h, w) in [-1, 1]; context (B, L, D): their texts, where it reads any.

        level: None for its own; InputError unless it lies from 0 to 1. All pictures get the same noise, so that none
        depends on its neighbours.
        """
        level = number("level", self.level if level is None else level, (0, 1))
        levels = torch.full((len(small),), level, device=small.device)
        eps = torch.randn(small.shape[1:], generator=torch.Generator().manual_seed(0)).to(small)
        low = enlarge(augment(small.clamp(-1, 1), levels, eps), self.side)
        return Enlarger(self.unet, self.residual_std, low, levels, context)

    @torch.inference_mode()
    def sample(
        self,
        rT: torch.Tensor,
        small: torch.Tensor,
        steps: int | None = None,
        level: float | None = None,
        context: torch.Tensor | None = None,
    ) -> Iterator[State]:
        """From noise rT (B, 3, side, side) to the enlarged pictures; yields States of pictures.

        small: (B, 3, h, w), or one for all. Raises InputError for what is out of range, or where numbers differ.
        """
        small = spread("small pictures", small.to(rT.device), len(rT))
        yield from sample_enlarged(self.conditioned_model(small, context, level), rT, steps or self.steps)

    def stage(self, encode: Callable[[list], torch.Tensor] | None = None) -> Stage:
        """It as the stage of a system; encode(prompts) -> context (B, L, D), where the network reads any."""

        def model(prompts, guidance, negative, before):
            return self.conditioned_model(before, encode(prompts) if encode else None)

        shape = (3, self.side, self.side)
        return Stage(f"{self.side}x{self.side}", shape, model, sample_enlarged, lambda x: x.clamp(-1, 1), self.steps)


def regress(unet: EfficientUNet, low: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The residual (B, 3, H, W) in one go, without noise and steps: what a network trained to regression answers."""
    return unet(torch.zeros_like(low), torch.zeros_like(level), low=low, level=level)


def make_sr2() -> EfficientUNet:
    """The untrained network that enlarges 64 to 256 pixels: no attention, and no text."""
    return EfficientUNet(channels=(24, 48, 96), num_blocks=(1, 2, 4)).to(memory_format=torch.channels_last)


SR2_STD = 0.11  # standard deviation of what bicubic enlarging from 64 to 256 pixels misses, where there is something


def open_sr2(device: torch.device | None = None, folder: str | Path | None = None) -> SuperResolution:
    """What enlarges any system's pictures to 256 pixels. Raises CheckpointError when its checkpoint is missing."""
    unet = checkpoints.load("imagen-sr2", make_sr2(), device, folder)
    return SuperResolution(unet, SR2_SIDE, SR2_STD, steps=8)
