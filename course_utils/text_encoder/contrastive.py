"""The contrastive loss: vectors of pictures and captions drawn together where they belong to each other, else apart.

image_embed (N, D) ─┐                       softmax along rows:    which caption fits this picture?
                    ├─► logits (N, N) ──►                                                              ──► loss
text_embed (N, D) ──┘                       softmax along columns: which picture fits this caption?
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def contrastive_loss(
    image_embed: torch.Tensor, text_embed: torch.Tensor, scale: torch.Tensor | float, also: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the symmetric cross entropy of N pairs, in float32: a scalar, ln N for vectors that say nothing.

    image_embed, text_embed: (N, D) of unit length, row i of both is pair i; scale: 1 / temperature, which their
    cosines are multiplied by; also: (N, N) bool, True where caption j is true of picture i without being its own: such
    a pair is no negative, and is left out of both softmaxes. Radford et al. 2021, figure 3. Built in notebook 07.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        logits = scale * image_embed.float() @ text_embed.float().T  # (N, N)
        if also is not None:
            own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(also & ~own, -torch.inf)
        pairs = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def embed_in_chunks(encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return encode(inputs), (N, …) -> (N, D), holding the activations of only `chunk` inputs at a time.

    The loss needs all N vectors at once, but not what the network computed on the way to them: that is forgotten, and
    computed again chunk by chunk when the gradient comes back. The gradient is the same, as long as the network draws
    no random numbers and no input looks at another. Gao et al. 2021 ("gradient caching"). Built in notebook 07.
    """
    if len(inputs) <= chunk:  # nothing to gain
        return encode(inputs)
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in inputs.split(chunk)])
