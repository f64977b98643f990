"""From noise to picture: samplers go back through the steps and yield every state on the way.

A sampler knows no network: `model` is any callable (xt, t) -> prediction. All have one signature and are generators,
so a loop over one sees each step, and `sample` runs one to its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from course_utils.generator.objectives import to_eps, to_x0

SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class State:
    """One moment of sampling: after step number `step` (1 ... S), which was taken at time `t`, we hold `xt`.

    x0: the clean picture that the network's answer implied at this step, (B, ...) like xt. The next step starts from
    `xt` as it then is: whoever writes into it steers the sampling.
    """

    step: int
    t: int
    xt: torch.Tensor
    x0: torch.Tensor


def timesteps(steps, num_train_steps=1000, spacing="leading", offset=0):
    """Choose which of the T training steps to visit: (S,) long, from noise down to the picture.

    "leading" starts each stride (and misses T-1), "trailing" ends it (and visits T-1), "linspace" visits both ends.
    offset: added to "leading" (Stable Diffusion uses 1). spacing may be a table (S,) of one's own.
    Raises ValueError unless 1 <= steps <= T. Lin et al. 2023, table 2. Built in notebook 03.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= num_train_steps:
        raise ValueError(f"steps must be a whole number from 1 to {num_train_steps}, not {steps!r}")
    if torch.is_tensor(spacing):
        return spacing
    if spacing == "leading":
        table = torch.arange(steps) * (num_train_steps // steps) + offset
    elif spacing == "trailing":
        table = torch.arange(num_train_steps, 0, -num_train_steps / steps, dtype=torch.float64).round().flip(0) - 1
    elif spacing == "linspace":
        table = torch.linspace(0, num_train_steps - 1, steps, dtype=torch.float64).round()
    else:
        raise ValueError(f"unknown spacing {spacing!r}: choose one of {', '.join(SPACINGS)}")
    return table.long().flip(0)


def solver_timesteps(steps, num_train_steps=1000, spacing="trailing"):
    """As `timesteps`, without a visit at t = 0: a solver's last step goes from the last entry to the clean picture.

    At t = 0 hardly any noise is left, so a call of the network there would buy nothing. Returns (S,) long.
    Lu et al. 2022b, algorithm 2, as in diffusers. Built in notebook 03.
    """
    table = timesteps(steps, num_train_steps, spacing)
    if torch.is_tensor(spacing) or spacing == "trailing" or steps == num_train_steps:  # ends before 0, or has no more
        return table
    return timesteps(steps + 1, num_train_steps, spacing)[:-1]


def step_pairs(table):
    """Yield (t, the t that follows) along a table of steps; after the last comes -1, the clean picture."""
    table = table.tolist()
    yield from zip(table, [*table[1:], -1], strict=True)


def alpha_bar_at(schedule, t):
    """alpha_bar_t as a float; before the first step (t = -1) nothing is noised, and it is 1."""
    return float(schedule.alpha_bar[t]) if t >= 0 else 1.0


def noise_like(x, generator):
    """Draw Gaussian noise on the CPU, so that a seed means the same picture on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


@torch.no_grad()
def ddpm(
    model,
    xT,
    schedule,
    steps=None,
    prediction="eps",
    generator=None,
    clip=True,
    spacing="leading",
    variance="fixed_small",
) -> Iterator[State]:
    """Sample from the posterior q(x_{t-1} | x_t, x0) with the predicted x0.

    xT: noise (B, ...); steps: how many of the T to visit (None: all); clip: keep x0 in [-1, 1];
    variance: "fixed_small" (the posterior's) or "fixed_large" (beta). DDPM, eq. 6-7, algorithm 2.
    Built in notebook 02.
    """
    if variance not in ("fixed_small", "fixed_large"):
        raise ValueError(f"unknown variance {variance!r}: choose fixed_small or fixed_large")
    xt, table = xT, timesteps(steps or schedule.num_steps, schedule.num_steps, spacing)
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
        xt = mean
        yield State(step, t, xt, x0)


@torch.no_grad()
def ddim(
    model,
    xT,
    schedule,
    steps=50,
    prediction="eps",
    generator=None,
    clip=True,
    spacing="leading",
    eta=0.0,
) -> Iterator[State]:
    """Go back along the predicted noise: with eta = 0 the noise we start from fixes the picture.

    xT: noise (B, ...); steps: how many of the T to visit; clip: keep x0 in [-1, 1]; eta: 0 (no fresh noise) to 1
    (as much as DDPM). DDIM, eq. 12 and 16. Built in notebook 03.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 and 1, not {eta!r}")
    xt, table = xT, timesteps(steps, schedule.num_steps, spacing)
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
        yield State(step, t, xt, x0)


@torch.no_grad()
def dpmpp_2m(
    model,
    xT,
    schedule,
    steps=20,
    prediction="eps",
    generator=None,
    clip=True,
    spacing="trailing",
) -> Iterator[State]:
    """Go back like DDIM, along a picture that two predictions in a row foretell: DPM-Solver++ (2M).

    xT: noise (B, ...); steps: how many of the T to visit; clip: keep x0 in [-1, 1]; spacing: "trailing" starts at the
    noise that xT is; generator: not used, no fresh noise enters. Lu et al. 2022b, eq. 8 and algorithm 2, midpoint,
    first and last step of first order. Built in notebook 03.
    """
    xt, x0_before, h_before = xT, None, None
    for step, (t, t_next) in enumerate(step_pairs(solver_timesteps(steps, schedule.num_steps, spacing)), start=1):
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
        yield State(step, t, xt, x0)


def sample(sampler, model, xT, schedule, **options):
    """Run a sampler to its end and return the pictures (B, ...). options: those of the sampler."""
    state = None
    with torch.inference_mode():
        for state in sampler(model, xT, schedule, **options):  # noqa: B007 (only the last state is wanted)
            pass
    return state.xt
