"""What the network is asked to predict, and how its error is weighed: noise, picture or velocity."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from course_utils.errors import InputError
from course_utils.generator.schedules import Schedule, add_noise

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (xt, t) -> prediction, as samplers want it
PREDICTIONS = ("eps", "x0", "v")


def velocity(x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, like x0.

    Salimans and Ho 2022, appendix D. Built in notebook 02.
    """
    signal, noise = schedule.at(t, x0)
    return signal * eps - noise * x0


def target(prediction: str, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """What the network should answer at step t: eps, x0 or v, like x0.

    prediction: "eps", "x0" or "v"; InputError otherwise. Built in notebook 02.
    """
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return velocity(x0, eps, t, schedule)
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


def to_x0(
    pred: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, schedule: Schedule, prediction: str = "eps"
) -> torch.Tensor:
    """Turn the network's answer at step t into the clean picture it implies, like xt.

    Raises InputError for "eps" at a step of noise alone (zero terminal SNR): the noise says nothing of the picture.
    DDPM, eq. 15, and Salimans and Ho 2022, eq. 9. Built in notebook 02.
    """
    signal, noise = schedule.at(t, xt)
    if prediction == "eps":
        if (signal == 0).any():
            raise InputError("noise alone says nothing of a picture: predict x0 or v, or begin before the last step")
        return (xt - noise * pred) / signal
    if prediction == "x0":
        return pred
    if prediction == "v":
        return signal * xt - noise * pred
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


def to_eps(
    pred: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, schedule: Schedule, prediction: str = "eps"
) -> torch.Tensor:
    """Turn the network's answer at step t into the noise it implies, like xt. Built in notebook 02."""
    signal, noise = schedule.at(t, xt)
    if prediction == "eps":
        return pred
    if prediction == "x0":
        return (xt - signal * pred) / noise
    if prediction == "v":
        return signal * pred + noise * xt
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


def min_snr_weight(t: torch.Tensor, schedule: Schedule, prediction: str = "eps", gamma: float = 5.0) -> torch.Tensor:
    """The loss weight (B,) that keeps the easy, almost clean steps from dominating.

    min(SNR, gamma) divided by SNR for eps (the limit 1 where the SNR is 0), by 1 for x0, by SNR + 1 for v.
    gamma=5 is the paper's choice. Hang et al. 2023, eq. 7 and appendix. Built in notebook 03.
    """
    snr = schedule.snr.to(torch.float32).to(t.device)[t]
    least = snr.clamp(max=gamma)
    weights = {"eps": (gamma / snr).clamp(max=1), "x0": least, "v": least / (snr + 1)}
    if prediction not in weights:
        raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
    return weights[prediction]


def sample_timesteps(
    n: int, num_steps: int, power: float = 1.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw n steps t = T u^power with u even in [0, 1): (n,) long in 0 ... T-1.

    power: 1 draws all alike, below 1 the noisy ones come more often; their mean is T / (1 + power).
    Built in notebook 04.
    """
    u = torch.rand(n, generator=generator, dtype=torch.float64)  # float32 could round up to T
    return (num_steps * u**power).long()


def diffusion_loss(
    model: Callable,
    x0: torch.Tensor,
    schedule: Schedule,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None,
    t: torch.Tensor | None = None,
    **conditions,
) -> torch.Tensor:
    """Draw a step and a noise for every picture, let the network predict, return the mean squared error.

    model(xt, t, **conditions) -> like x0; x0: (B, ...) in [-1, 1]; generator: a CPU one, so that a seed means
    the same on every device; weight: None or a function of t giving (B,); t: the steps (B,), None draws all alike.
    Returns a scalar. DDPM, algorithm 1 and eq. 14. Built in notebook 02.
    """
    t = torch.randint(schedule.num_steps, (len(x0),), generator=generator) if t is None else t
    t = t.to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    pred = model(add_noise(x0, eps, t, schedule), t, **conditions)
    error = F.mse_loss(pred.float(), target(prediction, x0, eps, t, schedule), reduction="none").flatten(1).mean(1)
    return (error if weight is None else weight(t) * error).mean()
