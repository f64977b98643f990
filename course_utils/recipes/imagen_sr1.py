"""imagen-sr1: enlarges 16x16 pictures to 64x64, Imagen's second stage, with the caption read once more."""

from __future__ import annotations

import torch
from torch import nn

from course_utils.decoder.super_resolution import make_low, sample_levels, to_residual
from course_utils.generator.objectives import diffusion_loss
from course_utils.recipes.imagen_base import examples, measure
from course_utils.systems.imagen import SIZE, SR1_STD
from course_utils.systems.imagen import make_sr1 as model
from course_utils.systems.super_resolution import PREDICTION, SCHEDULE
from course_utils.training import Recipe


def batch(generator: torch.Generator, n: int) -> dict[str, torch.Tensor]:
    """Compose n pictures: "x0" (n, 3, 64, 64), "low", what is shown of it, "level", its noise, and "context"."""
    made = examples(generator, n)
    level = sample_levels(n, generator=generator)
    low = make_low(made["x"], SIZE, level, generator)
    return {"x0": made["x"], "low": low, "level": level, "context": made["context"]}


def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the error of the predicted velocity of the residual, given the captions' states."""
    conditions = {key: batch[key] for key in ("low", "level", "context")}
    residual = to_residual(batch["x0"], batch["low"], batch["level"], SR1_STD)
    return diffusion_loss(network, residual, SCHEDULE, PREDICTION, generator, **conditions)


RECIPE = Recipe(
    name="imagen-sr1",
    summary="enlarges 16x16 pictures to 64x64, Imagen's second stage",
    model=model,
    batch=batch,
    loss=loss,
    measure=measure,
    batch_size=32,
    lr=8e-4,
    warmup=200,
    weight_decay=0.01,
    time_share=4.0,
)
