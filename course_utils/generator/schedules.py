"""How much noise each step adds: schedules, and the closed form that jumps to any step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from course_utils.errors import integer, one_of


def linear_beta(num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """DDPM's beta: evenly spaced from start to end, scaled by 1000 / T for another T, so that it ends as noisy.

    Returns (T,) float64 in (0, 1). DDPM, section 4; Nichol and Dhariwal 2021 for the scaling. Built in notebook 01.
    """
    scale = 1000 / num_steps
    return torch.linspace(scale * start, scale * end, num_steps, dtype=torch.float64)


def scaled_linear_beta(num_steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> torch.Tensor:
    """Stable Diffusion's beta, evenly spaced in its square root, scaled by 1000 / T for another T as `linear_beta` is.

    Returns (T,) float64 in (0, 1). Rombach et al. 2022 (LDM), appendix. Built in notebook 01.
    """
    scale = 1000 / num_steps
    return torch.linspace((scale * start) ** 0.5, (scale * end) ** 0.5, num_steps, dtype=torch.float64) ** 2


def cosine_beta(num_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> torch.Tensor:
    """The beta whose alpha_bar falls like a squared cosine.

    s keeps the first steps from being too small, max_beta the last from being 1. Returns (T,) float64.
    Nichol and Dhariwal 2021, eq. 17. Built in notebook 01.
    """
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def zero_terminal_snr(beta: torch.Tensor) -> torch.Tensor:
    """Shift and scale sqrt(alpha_bar) so that the last step is noise alone and the first stays as it was.

    beta: (T,) in (0, 1). Returns (T,), the last exactly 1. Lin et al. 2023, algorithm 1. Built in notebook 01.
    """
    root = torch.cumprod(1 - beta, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * first / (first - last)
    alpha_bar = root**2
    alpha = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alpha


@dataclass(frozen=True)
class Schedule:
    """beta, and alpha_bar, the running product of 1 - beta: two (T,) float64 tensors.

    Index t runs from 0 (the first, invisible dose of noise) to T - 1 (noise). DDPM, section 2. Built in notebook 01.
    """

    beta: torch.Tensor
    alpha_bar: torch.Tensor

    @classmethod
    def from_beta(cls, beta: torch.Tensor) -> Schedule:
        """Build both from beta (T,)."""
        return cls(beta, torch.cumprod(1 - beta, dim=0))

    @property
    def num_steps(self) -> int:
        return len(self.beta)

    @property
    def snr(self) -> torch.Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), (T,)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self) -> torch.Tensor:
        """Natural logarithm of the signal-to-noise ratio, (T,); minus infinity where nothing is left."""
        return torch.log(self.snr)

    def at(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped (B, 1, ...) to multiply `like` (B, ...)."""
        alpha_bar = self.alpha_bar.to(t.device)[t] if t.device.type != "mps" else self.alpha_bar[t.cpu()]
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = alpha_bar.sqrt().reshape(shape), (1 - alpha_bar).sqrt().reshape(shape)
        return signal.to(like), noise.to(like)  # computed in float64, used in the network's own type


BETAS = {"linear": linear_beta, "cosine": cosine_beta, "scaled_linear": scaled_linear_beta}


def make_schedule(name: str = "linear", num_steps: int = 1000, zero_snr: bool = False) -> Schedule:
    """The Schedule of that name: "linear", "cosine" or "scaled_linear".

    num_steps: T from 25 (with fewer, a linear beta would pass 0.8) to 100,000; zero_snr: repair the end with
    `zero_terminal_snr`. Raises InputError for other names and numbers. Built in notebook 01.
    """
    num_steps = integer("num_steps", num_steps, (25, 100_000))
    beta = BETAS[one_of("schedule", name, BETAS)](num_steps)
    return Schedule.from_beta(zero_terminal_snr(beta) if zero_snr else beta)


def add_noise(x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """Jump from a clean picture to step t at once: sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.

    x0, eps: (B, ...); t: (B,) long in 0 ... T-1. Returns xt like x0. DDPM, eq. 4. Built in notebook 01.
    """
    signal, noise = schedule.at(t, x0)
    return signal * x0 + noise * eps
