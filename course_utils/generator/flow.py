"""Rectified flow: noise and picture joined by a straight line, along which a network tells the direction.

xt = (1 - t) x0 + t eps        t = 0 the picture, t = 1 the noise
network ──► eps - x0, the same all along the line        sampling: go back along it in a few straight steps

No schedule is left: nothing but t, which the network reads times NUM_STEPS as it reads steps elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from course_utils.errors import STEPS, InputError, integer, number
from course_utils.generator.objectives import Model
from course_utils.generator.samplers import State, check_noise

NUM_STEPS = 1000  # what t = 1 is to the network, so that its step embedding sees numbers it can tell apart


def straight(x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The point at t (B,), in [0, 1], of the line from x0 to eps, (B, ...) each: (1 - t) x0 + t eps.

    Liu et al. 2022, section 2.1, whose time runs the other way. Built in notebook 12.
    """
    t = t.reshape(-1, *[1] * (x0.ndim - 1)).to(x0)
    return (1 - t) * x0 + t * eps


def logit_normal(n: int, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw n times t = sigmoid(mean + std * u), u Gaussian: (n,) in (0, 1), most in the middle, where it is hardest.

    mean: above 0, noisy times come more often. Esser et al. 2024, section 3.1. Built in notebook 12.
    """
    return torch.sigmoid(mean + std * torch.randn(n, generator=generator))


def flow_loss(
    model: Callable,
    x0: torch.Tensor,
    generator: torch.Generator | None = None,
    t: torch.Tensor | None = None,
    **conditions,
) -> torch.Tensor:
    """Draw a time and a noise for every picture, let the network tell the direction, return the mean squared error.

    model(xt, NUM_STEPS * t, **conditions) -> like x0; x0: (B, ...); generator: a CPU one, so that a seed means the same
    on every device; t: the times (B,) in [0, 1], None draws them from `logit_normal`. Returns a scalar.
    Liu et al. 2022, eq. 1; Lipman et al. 2023, eq. 23 with sigma_min = 0. Built in notebook 12.
    """
    t = (logit_normal(len(x0), generator=generator) if t is None else t).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    pred = model(straight(x0, eps, t), NUM_STEPS * t, **conditions)
    return F.mse_loss(pred.float(), eps - x0)


@dataclass(frozen=True)
class Flow:
    """Which times sampling visits. shift: 1 leaves them even; above, more are spent near the noise.

    A large picture needs more noise than a small one to be forgotten, so Stable Diffusion 3 takes 3 for 1024 pixels.
    Esser et al. 2024, eq. 23. Built in notebook 12.
    """

    shift: float = 1.0

    def times(self, steps: int) -> torch.Tensor:
        """(steps + 1,) float64 from 1, the noise, to 0, the picture; InputError for a number out of range.

        diffusers' own table spends its last step between 0.001 and 0; this one is what its Flux pipeline gives it.
        """
        t = torch.linspace(1, 0, integer("steps", steps, STEPS) + 1, dtype=torch.float64)
        shift = number("shift", self.shift, (0.01, 100))
        return shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def euler(
    model: Model,
    xT: torch.Tensor,
    schedule: Flow = Flow(),
    steps: int = 20,
    generator: torch.Generator | None = None,
    times: Sequence[float] | torch.Tensor | None = None,
) -> Iterator[State]:
    """Go back from noise xT (B, ...) in straight steps: x + (t_next - t) * the direction at t.

    steps: how many; generator: not used, no fresh noise enters; times: a table of one's own (S + 1,) that falls within
    [0, 1] (None: the schedule's). Yields States whose t is that of the network, as a whole number. Raises InputError
    for what is out of range. Liu et al. 2022, section 2.1. Built in notebook 12.
    """
    xt, table = check_noise(xT), schedule.times(steps) if times is None else check_times(times)
    for step, (t, t_next) in enumerate(zip(table[:-1].tolist(), table[1:].tolist(), strict=True), start=1):
        direction = model(xt, torch.full((len(xt),), NUM_STEPS * t, device=xt.device))
        x0 = xt - t * direction  # where the line ends, were it straight
        xt = xt + (t_next - t) * direction
        yield State(step, round(NUM_STEPS * t), xt, x0)


def check_times(times: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """The table as (S + 1,) float64; InputError unless it falls from at most 1 to at least 0."""
    table = torch.as_tensor(times, dtype=torch.float64)
    if table.ndim != 1 or len(table) < 2 or not (table.diff() < 0).all() or table[0] > 1 or table[-1] < 0:
        raise InputError("times is a table of at least two numbers that falls from at most 1 to at least 0")
    return table
