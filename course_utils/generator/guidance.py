"""Classifier-free guidance: follow the text more closely than the network alone would.

Any callable (xt, t, context, context_mask) -> prediction will do; what comes back is a model for the samplers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_utils.generator.objectives import Model


def apply_guidance(uncond: torch.Tensor, cond: torch.Tensor, scale: float) -> torch.Tensor:
    """Go from the answer without text towards and past the one with it: uncond + scale * (cond - uncond).

    scale: 1 is off, 0 ignores the text. Ho and Salimans 2022, eq. 6, whose w is scale - 1. Built in notebook 04.
    """
    return uncond + scale * (cond - uncond)


def drop_caption(context_mask: torch.Tensor, probability: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide all tokens but the first of some rows of a mask (B, L), so that the network learns to draw without text.

    The start mark stays: it has seen no word, and attention needs something to look at. Built in notebook 04.
    """
    dropped = torch.rand(len(context_mask), generator=generator) < probability
    keep = torch.zeros_like(context_mask)
    keep[:, 0] = True
    return torch.where(dropped.to(context_mask.device)[:, None], keep, context_mask)


def guided(
    model: Callable,
    context: torch.Tensor,
    context_mask: torch.Tensor,
    scale: float,
    negative: torch.Tensor | None = None,
    negative_mask: torch.Tensor | None = None,
) -> Model:
    """A model (xt, t) -> prediction that follows the text with this scale.

    context (B, L, D), context_mask (B, L); negative: the text to move away from, in the same form (None: no text).
    Both answers come from one batch of 2B. With scale 1 the model runs once, unguided. Built in notebook 04.
    """
    if scale == 1:
        return lambda xt, t: model(xt, t, context=context, context_mask=context_mask)
    if negative is None:
        negative, negative_mask = context, torch.zeros_like(context_mask)
        negative_mask[:, 0] = True
    both, mask = pad_and_cat(negative, context), pad_and_cat(negative_mask, context_mask)

    def answer(xt, t):
        pred = model(torch.cat([xt, xt]), torch.cat([t, t]), context=both, context_mask=mask)
        return apply_guidance(*pred.chunk(2), scale)

    return answer


def pad_and_cat(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Join two batches of texts (B, L, ...) of different lengths, the shorter filled with zeros."""
    length = max(first.shape[1], second.shape[1])
    padded = [torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], dim=1) for x in (first, second)]
    return torch.cat(padded)
