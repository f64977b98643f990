"""Is an enlarged picture sharp, and does it still show what was enlarged? What the evaluator, at 64 pixels, cannot see.

enlarged ──► high frequencies ──► as strong as in real pictures?    power_ratio, wanted 1
         ──► shrunk again ──────► what was enlarged?                consistency in decibels, up
         ──► patches ───────────► features like those of real ones? Fréchet distance, down
"""

from __future__ import annotations

import numpy as np
import torch

from course_utils.evaluation.intervals import Estimate, interval
from course_utils.evaluation.metrics import psnr
from course_utils.layers import resize


def high_frequency_power(x: torch.Tensor, factor: int = 4) -> torch.Tensor:
    """Return the mean power of pictures (B, C, H, W) in waves that a picture `factor` times smaller cannot hold.

    Those are shorter than 2 x factor pixels, along either side. Returns (B,). Built in notebook 09.
    """
    power = torch.fft.fft2(x.double(), norm="forward").abs().square().sum(dim=1) / x.shape[1]  # (B, H, W), as variance
    rows, columns = (torch.fft.fftfreq(side, device=x.device).abs() for side in x.shape[-2:])
    short = torch.maximum(rows[:, None], columns[None]) >= 1 / (2 * factor)
    return (power * short).sum(dim=(1, 2))


def power_ratio(x: torch.Tensor, real: torch.Tensor, factor: int = 4) -> Estimate:
    """Return the high-frequency power of pictures x as a multiple of that of N real ones: 1 is as sharp as they are.

    x, real: (N, C, H, W), pair by pair the same subject. The interval resamples pairs. Built in notebook 09.
    """
    pairs = torch.stack([high_frequency_power(x, factor), high_frequency_power(real, factor)], dim=1).numpy()

    def ratio(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = pairs[rows.astype(int)].mean(axis=-2)  # (..., 2)
        return chosen[..., 0] / chosen[..., 1]

    rows = np.arange(len(pairs), dtype=np.float64)
    return Estimate(ratio(rows), *interval(rows, ratio), len(pairs))


def consistency(x: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Return how near pictures x (B, 3, H, W), shrunk again, come to what was enlarged, (B, 3, h, w): PSNR, (B,)."""
    return psnr(resize(x, small.shape[-1]), small)


def patches(x: torch.Tensor, side: int = 64) -> torch.Tensor:
    """Return pictures (B, C, H, W) cut into squares, (B H/side W/side, C, side, side), row by row."""
    cut = x.unfold(2, side, side).unfold(3, side, side)  # (B, C, H/side, W/side, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1], side, side)
