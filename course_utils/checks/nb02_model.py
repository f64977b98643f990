"""What the exercises of notebook 02 share: a small random predictor, pictures, and a table of alpha_bar."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class TinyModel(nn.Module):
    """A predictor just large enough to notice what it is given: one 1x1 convolution and a bias that grows with t."""

    def __init__(self, g: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(0.4 * torch.randn(3, 3, 1, 1, generator=g), requires_grad=False)

    def forward(self, xt, t):
        return F.conv2d(xt, self.weight) + 0.05 * t.to(xt.dtype).view(-1, 1, 1, 1)


def beta_table(g: torch.Generator, steps: int) -> torch.Tensor:
    """beta (steps,), float64, rising: alpha_bar falls from about 0.95 to 0.1 in 20 steps."""
    return (torch.rand(steps, generator=g, dtype=torch.float64) * 0.1 + 0.04).sort().values


def alpha_bar_table(g: torch.Generator, steps: int) -> torch.Tensor:
    """alpha_bar (steps,), float64, from about 0.98 to 0.1 whatever the number of steps."""
    return torch.cumprod(1 - 20 / steps * beta_table(g, steps), 0)


def pictures(g: torch.Generator, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 in [-1, 1] and eps, both (3 + i, 3, 8, 8)."""
    x0 = torch.rand(3 + i, 3, 8, 8, generator=g) * 2 - 1
    return x0, torch.randn(x0.shape, generator=g)
