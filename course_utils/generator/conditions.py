"""Conditions that are pictures: more channels beside the noisy latent, or a part of the picture that must stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.errors import InputError
from course_utils.generator.schedules import Schedule, add_noise


def concat_condition(model: Callable, cond_channels: torch.Tensor) -> Callable:
    """A model that also sees `cond_channels` (B, E, H, W), laid beside the noisy latent as further channels.

    model takes (B, C + E, H, W); what comes back takes (B, C, H, W), or (2B, ...) when guidance asks twice.
    LDM, section 3.3, concatenation. Built in notebook 06.
    """

    def answer(zt, t, **conditions):
        copies = len(zt) // len(cond_channels)
        return model(torch.cat([zt, cond_channels.repeat(copies, 1, 1, 1)], dim=1), t, **conditions)

    return answer


def picture_tensor(pictures: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Pictures (B, 3, H, W), float32 in [-1, 1], from those or from bytes 0 ... 255.

    Bytes may also lie as (B, H, W, 3), as files and `Examples` have them; one picture may come without B. Raises
    InputError for other shapes, and for floats beyond [-1, 1]: they could mean anything.
    """
    x = numbers("pictures", pictures)
    x = x[None] if x.ndim == 3 else x
    if x.dtype == torch.uint8:
        x = x.float() / 127.5 - 1
        x = x.movedim(-1, 1) if x.shape[-1] == 3 and x.shape[1] != 3 else x
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel():
        raise InputError(f"pictures must have the shape (B, 3, H, W), and not {tuple(x.shape)}")
    if not x.is_floating_point() or not x.abs().amax() <= 1 + 1e-3:  # a nan is not, either
        raise InputError("pictures must lie in [-1, 1], or be bytes (uint8) from 0 to 255")
    return x


def mask_tensor(mask: torch.Tensor | np.ndarray) -> torch.Tensor:
    """A mask (B, 1, H, W), float32, 1 where to draw anew, from booleans, numbers 0 ... 1 or bytes 0 and 255.

    B and 1 may be left out. Raises InputError for other shapes and numbers.
    """
    x = numbers("the mask", mask)
    x = x[None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x
    if x.dtype == torch.uint8 and x.numel() and x.max() > 1:
        x = x / 255
    x = x.float()
    if x.ndim != 4 or x.shape[1] != 1 or not x.numel():
        raise InputError(f"the mask must have the shape (B, 1, H, W) or (H, W), and not {tuple(x.shape)}")
    if not (x.amin() >= 0 and x.amax() <= 1):
        raise InputError("the mask must be boolean, lie in [0, 1], or be bytes 0 and 255: 1 or 255 is drawn anew")
    return x


def numbers(what: str, value: torch.Tensor | np.ndarray) -> torch.Tensor:
    """An array of NumPy or PyTorch as a tensor; InputError for anything else."""
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        raise InputError(f"{what} must be a tensor or an array, not {type(value).__name__}")
    return torch.as_tensor(value)


def shrink_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask (B, 1, H, W) of zeros and ones at the latent's size (h, w): the nearest pixel decides."""
    return F.interpolate(mask, size=size)


def blend_known(
    zt: torch.Tensor, known: torch.Tensor, eps: torch.Tensor, mask: torch.Tensor, t: int, schedule: Schedule
) -> torch.Tensor:
    """Put the known picture, noised to step t, back wherever the mask says keep: like zt.

    zt, known, eps: (B, C, h, w), eps the same noise at every step; mask: (B, 1, h, w), 1 where to draw anew, 0 where to
    keep; t: the step that zt stands at, -1 for the clean picture. Blended latent diffusion, algorithm 1; the
    4-channel branch of diffusers' inpainting. Built in notebook 06.
    """
    if t >= 0:
        known = add_noise(known, eps, torch.full((len(zt),), t, device=zt.device), schedule)
    return mask * zt + (1 - mask) * known


def outline(pictures: torch.Tensor, masks: torch.Tensor | None = None, threshold: float = 0.35) -> torch.Tensor:
    """The outlines of pictures (B, 3, H, W) in [-1, 1]: (B, 1, H, W), 1 on a line, 0 elsewhere.

    A line is where brightness or colour changes by more than `threshold` (of 2) within three pixels.
    masks: (B, 1, H, W) in [0, 1], the subjects; what lies around them is taken for white, so a background leaves no
    lines. Built in notebook 06.
    """
    if masks is not None:
        pictures = pictures * masks + (1 - masks)
    highest = F.max_pool2d(pictures, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-pictures, 3, stride=1, padding=1)
    return ((highest - lowest).amax(dim=1, keepdim=True) > threshold).to(pictures)
