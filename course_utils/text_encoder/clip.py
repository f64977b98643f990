"""CLIP's text tower: a Transformer in which every token looks back at those before it.

Modules carry the names of transformers' `CLIPTextModel`: state dicts load strictly both ways.
"""

import torch
from torch import nn

from course_utils.layers import Encoder


class Embeddings(nn.Module):
    """A vector for each token plus one for each place, (B, L) -> (B, L, D). Built in notebook 04."""

    def __init__(self, vocab_size: int, max_tokens: int, dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_tokens, dim)

    def forward(self, ids):
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]  # (B, L, D)


class CLIPTextModel(nn.Module):
    """Token numbers in, one vector for each token out.

    vocab_size, max_tokens: what it can read; dim: width D, a multiple of num_heads; eos_id: the mark that ends a
    text, where `pooled` reads. Radford et al. 2021, section 2.4. Built in notebook 04.
    """

    def __init__(self, vocab_size, max_tokens, dim, num_layers, num_heads, eos_id=1):
        super().__init__()
        self.eos_id = eos_id
        self.embeddings = Embeddings(vocab_size, max_tokens, dim)
        self.encoder = Encoder(dim, num_layers, num_heads, causal=True)
        self.final_layer_norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.02)  # GPT-2's and CLIP's start
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.01)

    def forward(self, ids):
        """Token numbers (B, L) -> context (B, L, D)."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))

    def pooled(self, ids: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The vector at the first end mark, which has seen the whole text: (B, D)."""
        end = (ids == self.eos_id).int().argmax(dim=-1)
        return context[torch.arange(len(ids), device=ids.device), end]
