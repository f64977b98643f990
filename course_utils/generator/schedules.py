"""How much noise each step adds: schedules, and the closed form that jumps to any step."""

import math
from dataclasses import dataclass

import torch


def linear_beta(num_steps=1000, start=1e-4, end=0.02):
    """DDPM's beta: evenly spaced from start to end, scaled by 1000 / T for another T.

    Returns (T,) float64 in (0, 1). DDPM, section 4; Nichol and Dhariwal 2021 for the scaling. Built in notebook 01.
    """
    scale = 1000 / num_steps
    return torch.linspace(scale * start, scale * end, num_steps, dtype=torch.float64)


def scaled_linear_beta(num_steps=1000, start=0.00085, end=0.012):
    """Stable Diffusion's beta, evenly spaced in its square root. (T,) float64. Built in notebook 01."""
    return torch.linspace(start**0.5, end**0.5, num_steps, dtype=torch.float64) ** 2


def cosine_beta(num_steps=1000, s=0.008, max_beta=0.999):
    """The beta whose alpha_bar falls like a squared cosine.

    s keeps the first steps from being too small, max_beta the last from being 1. Returns (T,) float64.
    Nichol and Dhariwal 2021, eq. 17. Built in notebook 01.
    """
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def zero_terminal_snr(beta):
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
    """beta, alpha = 1 - beta and alpha_bar, their running product: three (T,) float64 tensors.

    Index t runs from 0 (the first, invisible dose of noise) to T - 1 (noise). DDPM, section 2. Built in notebook 01.
    """

    beta: torch.Tensor
    alpha: torch.Tensor
    alpha_bar: torch.Tensor

    @classmethod
    def from_beta(cls, beta):
        """Build all three from beta (T,)."""
        return cls(beta, 1 - beta, torch.cumprod(1 - beta, dim=0))

    @property
    def num_steps(self) -> int:
        return len(self.beta)

    @property
    def snr(self):
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), (T,)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self):
        """Natural logarithm of the signal-to-noise ratio, (T,); minus infinity where nothing is left."""
        return torch.log(self.snr)

    def at(self, t, like):
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped (B, 1, ...) to multiply `like` (B, ...)."""
        alpha_bar = self.alpha_bar.to(t.device)[t] if t.device.type != "mps" else self.alpha_bar[t.cpu()]
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = alpha_bar.sqrt().reshape(shape), (1 - alpha_bar).sqrt().reshape(shape)
        return signal.to(like), noise.to(like)  # computed in float64, used in the network's own type


BETAS = {"linear": linear_beta, "cosine": cosine_beta, "scaled_linear": scaled_linear_beta}


def make_schedule(name="linear", num_steps=1000, zero_snr=False):
    """The Schedule of that name: "linear", "cosine" or "scaled_linear".

    num_steps: T >= 25 (with fewer, a linear beta would pass 0.8); zero_snr: repair the end with
    `zero_terminal_snr`. Raises ValueError for other names.
    Built in notebook 01.
    """
    if name not in BETAS:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(BETAS)}")
    if not isinstance(num_steps, int) or num_steps < 25:
        raise ValueError(f"a schedule needs a whole number of steps, at least 25, not {num_steps!r}")
    beta = BETAS[name](num_steps)
    return Schedule.from_beta(zero_terminal_snr(beta) if zero_snr else beta)


def add_noise(x0, eps, t, schedule):
    """Jump from a clean picture to step t at once: sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.

    x0, eps: (B, ...); t: (B,) long in 0 ... T-1. Returns xt like x0. DDPM, eq. 4. Built in notebook 01.
    """
    signal, noise = schedule.at(t, x0)
    return signal * x0 + noise * eps
