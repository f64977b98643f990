"""imagen-sr2-regression: the network of imagen-sr2 taught to hit every pixel on average: what diffusion must beat."""

from __future__ import annotations

import torch
from torch import nn

from course_utils.decoder.super_resolution import to_residual
from course_utils.recipes.imagen_sr2 import batch
from course_utils.systems.super_resolution import SR2_STD, regress
from course_utils.systems.super_resolution import make_sr2 as model
from course_utils.training import Recipe


def loss(network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the mean absolute error of the residual, guessed in one go."""
    low, level = batch["low"], batch["level"]
    return (regress(network, low, level) - to_residual(batch["x0"], low, level, SR2_STD)).abs().mean()


RECIPE = Recipe(
    name="imagen-sr2-regression",
    summary="the network of imagen-sr2 without diffusion: the average of all pictures that fit, for comparison",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=1e-3,
    time_share=3.0,
)
