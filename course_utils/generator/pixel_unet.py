"""Imagen's base: a U-Net that paints a picture of few pixels, and reads what a frozen language model says of the text.

It is `LatentUNet` with a norm before the text: a language model was never asked for vectors of even size.
"""

from __future__ import annotations

import torch

from course_utils.generator.latent_unet import LatentUNet
from course_utils.layers import TextNorm


class PixelUNet(LatentUNet):
    """A U-Net with text in the step, pooled, and in cross-attention, normed. Options as in `LatentUNet`.

    forward(xt (B, 3, H, W), t (B,), context (B, L, D), zero where nothing is said) -> (B, 3, H, W). Imagen, section 2.5
    and appendix D.1. Built in notebook 09.
    """

    def __init__(self, in_channels=3, out_channels=3, *, context_dim, **options):
        super().__init__(in_channels, out_channels, context_dim=context_dim, **options)
        self.context_norm = TextNorm(context_dim)

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, context_mask=None) -> torch.Tensor:
        return super().forward(x, t, self.context_norm(context), context_mask)
