"""noise-predictor: 32x32 emoji out of noise alone. One U-Net and a sampler; the network of notebook 02."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.generator.samplers import ddim
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import Patched, UNet
from course_utils.systems.stage import Stage

SIZE = 32  # pixels a side
PREDICTION = "x0"  # what a small network learns fastest; `to_eps` turns it into noise. Notebook 02 compares the three
SCHEDULE = make_schedule("cosine")  # reaches pure noise, and is gentle enough for small pictures


def make_unet(residual: bool = False) -> Patched:
    """The untrained network: pictures (B, 3, 32, 32) and steps (B,) in, the like out; residual: see Patched."""
    unet = UNet(
        12, 12, channels=(32, 64, 128), num_res_blocks=1, attention=(False, True, True), head_dim=32, groups=8
    )  # 16, 8 and 4 folded pixels a side: 0.2 GFLOP a picture
    patched = Patched(unet, patch=2, residual=residual)
    return patched.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[torch.nn.Module], None] | None = None,
) -> tuple[Stage, ...]:
    """The system's one stage, with its checkpoint."""
    unet = checkpoints.load("noise-predictor", make_unet(), device, folder)

    def sampler(model, xT, steps):
        return ddim(model, xT, SCHEDULE, steps, PREDICTION)

    return (Stage("picture", (3, SIZE, SIZE), lambda *conditions: unet, sampler),)
