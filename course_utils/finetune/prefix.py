"""A learned prefix: a few vectors before those of the prompt, which no word could have made.

prompt ──► text encoder ──► context (B, L, D) ─┐
tokens (P, D), learned ────────────────────────┴──► (B, P + L, D) ──► network, frozen
"""

import torch
from torch import nn

from course_utils.errors import InputError


class Prefix(nn.Module):
    """Learned tokens that stand before every context: (B, L, D) -> (B, num_tokens + L, D).

    start: vectors (num_tokens, dim) to begin with, such as those of a word; None draws them Gaussian, of size 1 like
    what a text encoder with a last LayerNorm gives. Raises InputError for vectors of another shape.
    Li and Liang 2021; before the context, as prefix-embedding tuning in Hu et al. 2021 (LoRA), section 5.1.
    Built in notebook 11.
    """

    def __init__(self, num_tokens, dim, start=None, generator=None):
        super().__init__()
        start = torch.randn(num_tokens, dim, generator=generator) if start is None else start
        if start.shape != (num_tokens, dim):
            raise InputError(f"start must be {num_tokens} vectors of {dim} numbers, not {tuple(start.shape)}")
        self.tokens = nn.Parameter(start.detach().clone())

    def forward(self, context):
        return torch.cat([self.tokens.expand(len(context), -1, -1), context], dim=1)  # (B, P + L, D)


class Prefixed(nn.Module):
    """A network that reads a `Prefix` before whatever context it is given, in its attention and in its pooled text.

    forward(zt (B, C, H, W), t (B,), context (B, L, D)) -> like zt. Attention takes contexts of any length; no token
    is hidden, so a mask is not passed on. Built in notebook 11.
    """

    def __init__(self, network, prefix):
        super().__init__()
        self.network, self.prefix = network, prefix

    def forward(self, zt, t, context, context_mask=None):
        return self.network(zt, t, self.prefix(context))
