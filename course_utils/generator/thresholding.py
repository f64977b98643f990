"""Where a guided prediction leaves [-1, 1]: cut it off, or squeeze the whole picture back.

A thresholded model predicts x0, so every sampler takes it: sampler(model, xT, schedule, prediction="x0", clip=False).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_utils.errors import number
from course_utils.generator.objectives import Model, to_x0
from course_utils.generator.schedules import Schedule


def static_threshold(x0: torch.Tensor) -> torch.Tensor:
    """Cut x0 (B, ...) off at -1 and 1. Imagen, section 2.2. Built in notebook 09."""
    return x0.clamp(-1, 1)


def dynamic_threshold(x0: torch.Tensor, percentile: float = 0.995) -> torch.Tensor:
    """Cut each picture of x0 (B, ...) off at s and divide by it; s: the percentile of its absolute values, at least 1.

    percentile: above 0, at most 1; InputError otherwise. Saharia et al. 2022 (Imagen), section 2.2 and appendix A.30.
    Built in notebook 09.
    """
    number("percentile", percentile, (0, 1), above=True)
    s = torch.quantile(x0.flatten(1).abs().float(), percentile, dim=1).clamp(min=1)  # (B,)
    s = s.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    return x0.clamp(-s, s) / s


def thresholded(
    model: Model, schedule: Schedule, prediction: str, threshold: Callable[[torch.Tensor], torch.Tensor]
) -> Model:
    """A model (xt, t) -> x0 of one that predicts eps, x0 or v: its x0 goes through `threshold` at every step.

    Built in notebook 09.
    """

    def answer(xt, t):
        return threshold(to_x0(model(xt, t), xt, t, schedule, prediction))

    return answer
