"""Conditions that are pictures: more channels beside the noisy latent, or a part of the picture that must stay."""

import torch
import torch.nn.functional as F

from course_utils.generator.schedules import add_noise


def concat_condition(model, cond_channels):
    """A model that also sees `cond_channels` (B, E, H, W), laid beside the noisy latent as further channels.

    model takes (B, C + E, H, W); what comes back takes (B, C, H, W), or (2B, ...) when guidance asks twice.
    LDM, section 3.3, concatenation. Built in notebook 06.
    """

    def answer(zt, t, **conditions):
        copies = len(zt) // len(cond_channels)
        return model(torch.cat([zt, cond_channels.repeat(copies, 1, 1, 1)], dim=1), t, **conditions)

    return answer


def shrink_mask(mask, size):
    """A mask (B, 1, H, W) of zeros and ones at the latent's size (h, w): the nearest pixel decides."""
    return F.interpolate(mask, size=size)


def blend_known(zt, known, eps, mask, t, schedule):
    """Put the known picture, noised to step t, back wherever the mask says keep; in place, for a sampler's state.

    zt, known, eps: (B, C, h, w), eps the same noise at every step; mask: (B, 1, h, w), 1 where to draw anew, 0 where to
    keep; t: the step the state stands at, -1 for the clean picture. Blended latent diffusion, algorithm 1; the
    4-channel branch of diffusers' inpainting. Built in notebook 06.
    """
    if t >= 0:
        known = add_noise(known, eps, torch.full((len(zt),), t, device=zt.device), schedule)
    return zt.copy_(mask * zt + (1 - mask) * known)


def outline(pictures, masks=None, threshold=0.35):
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
