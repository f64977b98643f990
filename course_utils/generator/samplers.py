"""From noise to picture: samplers go back through the steps and yield every state on the way.

A sampler knows no network: `model` is any callable (xt, t) -> prediction. All have one signature and are generators,
so a loop over one sees each step, and `sample` runs one to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from course_utils.errors import InputError, integer, number, one_of
from course_utils.generator.objectives import Model, to_eps, to_x0
from course_utils.generator.schedules import Schedule

SPACINGS = ("leading", "trailing", "linspace")
Spacing = str | Sequence[int] | torch.Tensor  # one of SPACINGS, or a table of steps
AfterStep = Callable[[torch.Tensor, int], torch.Tensor]  # (xt, the step it stands at, -1: clean) -> what holds instead


@dataclass(frozen=True)
class State:
    """One moment of sampling: after step number `step` (1 ... S), which was taken at time `t`, we hold `xt`.

    x0: the clean picture that the network's answer implied at this step, (B, ...) like xt. The next step starts from
    `xt`; whoever wants to steer the sampling gives the sampler an `after_step`.
    """

    step: int
    t: int
    xt: torch.Tensor
    x0: torch.Tensor


def timesteps(steps: int, num_train_steps: int = 1000, spacing: Spacing = "leading", offset: int = 0) -> torch.Tensor:
    """Choose which of the T training steps to visit: (S,) long, all different, from noise down to the picture.

    "leading" starts each stride (and misses T-1), "trailing" ends it (and visits T-1), "linspace" visits both ends.
    offset: added to "leading" (Stable Diffusion uses 1), as far as there is room. spacing may be a table (S,) of one's
    own. Raises InputError unless 1 <= steps <= T. Lin et al. 2023, table 2. Built in notebook 03.

    These are diffusers' tables, but where those are wrong: its "trailing" has S + 1 entries for some S, the last one -1
    (S = 61), and rounds halves by chance; its "leading" leaves out up to S - 1 noisy steps (S = 334 begins at 666),
    where we take uneven strides as soon as a whole one would be left out; its "linspace" of one step begins at the
    picture; its offset may pass T - 1.
    """
    steps, last = integer("steps", steps, (1, num_train_steps)), num_train_steps - 1
    if not isinstance(spacing, str):
        return check_table(spacing, num_train_steps)
    k = torch.arange(steps, dtype=torch.float64)  # products are exact, so that halves are
    if one_of("spacing", spacing, SPACINGS) == "leading":
        stride = num_train_steps // steps
        whole = num_train_steps - steps * stride < stride
        table = k * stride if whole else (k * num_train_steps / steps).floor()
        table += min(integer("offset", offset, (0, last)), last - int(table[-1]))
    elif spacing == "trailing":
        table = ((k + 1) * num_train_steps / steps).round() - 1
    else:
        table = (last - k * last / max(1, steps - 1)).round().flip(0)
    return table.long().flip(0)


def check_table(table: Sequence[int] | torch.Tensor, num_train_steps: int) -> torch.Tensor:
    """The table as (S,) long; InputError unless it falls, in whole numbers, from at most T-1 to at least 0."""
    table = torch.as_tensor(table)
    whole = table.ndim == 1 and len(table) > 0 and not table.is_floating_point() and table.dtype != torch.bool
    if not whole or (table.diff() >= 0).any() or table[0] >= num_train_steps or table[-1] < 0:
        raise InputError(
            f"spacing is one of {', '.join(SPACINGS)}, or a table of whole numbers that falls from at most "
            f"{num_train_steps - 1} to at least 0"
        )
    return table.long()


def solver_timesteps(
    steps: int, num_train_steps: int = 1000, spacing: Spacing = "trailing", offset: int = 0
) -> torch.Tensor:
    """As `timesteps`, without a visit at t = 0: a solver's last step goes from the last entry to the clean picture.

    At t = 0 hardly any noise is left, so a call of the network there would buy nothing. Returns (S,) long.
    Lu et al. 2022b, algorithm 2, as in diffusers. Built in notebook 03.
    """
    table = timesteps(steps, num_train_steps, spacing, offset)
    if not isinstance(spacing, str) or spacing == "trailing" or len(table) == num_train_steps:  # no visit to leave out
        return table
    return timesteps(len(table) + 1, num_train_steps, spacing, offset)[:-1]


def step_pairs(table: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield (t, the t that follows) along a table of steps; after the last comes -1, the clean picture."""
    table = table.tolist()
    yield from zip(table, [*table[1:], -1], strict=True)


def alpha_bar_at(schedule: Schedule, t: int) -> float:
    """alpha_bar_t as a float; before the first step (t = -1) nothing is noised, and it is 1."""
    return float(schedule.alpha_bar[t]) if t >= 0 else 1.0


def check_noise(xT: torch.Tensor) -> torch.Tensor:
    """The noise (B, ...) itself; InputError unless it is a tensor of floating-point numbers, and not of none."""
    if not torch.is_tensor(xT) or not xT.is_floating_point() or xT.ndim < 1 or not xT.numel():
        raise InputError("sampling begins with noise: a tensor (B, ...) of floats, such as torch.randn(4, 3, 32, 32)")
    return xT


def noise_like(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Draw Gaussian noise on the CPU, so that a seed means the same picture on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


@torch.no_grad()
def ddpm(
    model: Model,
    xT: torch.Tensor,
    schedule: Schedule,
    steps: int | None = None,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    clip: bool = True,
    spacing: Spacing = "leading",
    variance: str = "fixed_small",
    after_step: AfterStep | None = None,
) -> Iterator[State]:
    """Sample from the posterior q(x_{t-1} | x_t, x0) with the predicted x0.

    xT: noise (B, ...); steps: how many of the T to visit (None: all); clip: keep x0 in [-1, 1];
    variance: "fixed_small" (the posterior's) or "fixed_large" (beta); after_step(xt, t_next): what to hold instead of
    xt after a step. Raises InputError for what is out of range. DDPM, eq. 6-7, algorithm 2. Built in notebook 02.
    """
    one_of("variance", variance, ("fixed_small", "fixed_large"))
    xt = check_noise(xT)
    table = timesteps(schedule.num_steps if steps is None else steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        alpha = alpha_bar / alpha_bar_next  # one alpha, or the product of those that a stride skips
        ts = torch.full((len(xt),), t, device=xt.device)
        x0 = to_x0(model(xt, ts), xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        mean = (
            alpha_bar_next**0.5 * (1 - alpha) / (1 - alpha_bar) * x0
            + alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar) * xt
        )
        if t_next >= 0:  # the last step adds no noise
            small = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha)
            sigma = (small if variance == "fixed_small" else 1 - alpha) ** 0.5
            mean = mean + sigma * noise_like(xt, generator)
        xt = after_step(mean, t_next) if after_step else mean
        yield State(step, t, xt, x0)


@torch.no_grad()
def ddim(
    model: Model,
    xT: torch.Tensor,
    schedule: Schedule,
    steps: int = 50,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    clip: bool = True,
    spacing: Spacing = "leading",
    eta: float = 0.0,
    after_step: AfterStep | None = None,
) -> Iterator[State]:
    """Go back along the predicted noise: with eta = 0 the noise we start from fixes the picture.

    xT: noise (B, ...); steps: how many of the T to visit; clip: keep x0 in [-1, 1]; eta: 0 (no fresh noise) to 1
    (as much as DDPM); after_step as in `ddpm`. Raises InputError for what is out of range. DDIM, eq. 12 and 16.
    Built in notebook 03.
    """
    eta, xt = number("eta", eta, (0, 1)), check_noise(xT)
    table = timesteps(steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        ts = torch.full((len(xt),), t, device=xt.device)
        pred = model(xt, ts)
        eps = to_eps(pred, xt, ts, schedule, prediction)
        x0 = to_x0(pred, xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        sigma = eta * variance**0.5
        xt = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next - sigma**2) ** 0.5 * eps
        if eta > 0:
            xt = xt + sigma * noise_like(xt, generator)
        xt = after_step(xt, t_next) if after_step else xt
        yield State(step, t, xt, x0)


@torch.no_grad()
def dpmpp_2m(
    model: Model,
    xT: torch.Tensor,
    schedule: Schedule,
    steps: int = 20,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    clip: bool = True,
    spacing: Spacing = "trailing",
    after_step: AfterStep | None = None,
) -> Iterator[State]:
    """Go back like DDIM, along a picture that two predictions in a row foretell: DPM-Solver++ (2M).

    xT: noise (B, ...); steps: how many of the T to visit; clip: keep x0 in [-1, 1]; spacing: "trailing" starts at the
    noise that xT is; generator: not used, no fresh noise enters; after_step as in `ddpm`. Raises InputError for what is
    out of range. Lu et al. 2022b, eq. 8 and algorithm 2, midpoint, first and last step of first order. Built in
    notebook 03.
    """
    xt, x0_before, h_before = check_noise(xT), None, None
    table = solver_timesteps(steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        ts = torch.full((len(xt),), t, device=xt.device)
        x0 = to_x0(model(xt, ts), xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        ahead = x0
        if t_next >= 0:
            h = float(schedule.log_snr[t_next] - schedule.log_snr[t]) / 2  # the clock that makes the steps even
            if x0_before is not None:
                ahead = x0 + h / (2 * h_before) * (x0 - x0_before)  # where x0 will be half a step from here
            x0_before, h_before = x0, h
        shrink = ((1 - alpha_bar_next) / (1 - alpha_bar)) ** 0.5
        xt = shrink * xt + (alpha_bar_next**0.5 - shrink * alpha_bar**0.5) * ahead
        xt = after_step(xt, t_next) if after_step else xt
        yield State(step, t, xt, x0)


def sample(
    sampler: Callable[..., Iterator[State]], model: Model, xT: torch.Tensor, schedule: Schedule, **options
) -> torch.Tensor:
    """Run a sampler to its end and return the pictures (B, ...). options: those of the sampler."""
    state = None
    with torch.inference_mode():
        for state in sampler(model, xT, schedule, **options):  # noqa: B007 (only the last state is wanted)
            pass
    return state.xt
