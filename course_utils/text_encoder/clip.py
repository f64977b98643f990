"""CLIP's text tower: a Transformer in which every token looks back at those before it.

Modules carry the names of transformers' `CLIPTextModel`: state dicts load strictly both ways.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Embeddings(nn.Module):
    """A vector for each token plus one for each place, (B, L) -> (B, L, D). Built in notebook 04."""

    def __init__(self, vocab_size: int, max_tokens: int, dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_tokens, dim)

    def forward(self, ids):
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]  # (B, L, D)


class SelfAttention(nn.Module):
    """Causal multi-head attention: token i sees tokens 0 ... i. Built in notebook 04."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, head_dim)

    def forward(self, x):
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(h.transpose(1, 2).flatten(2))  # (B, L, D)


class MLP(nn.Module):
    """Four times wider and back, around x * sigmoid(1.702 x), CLIP's quick GELU. Built in notebook 04."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))


class Layer(nn.Module):
    """Attention and MLP, each with pre-norm and shortcut. Built in notebook 04."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(dim), SelfAttention(dim, num_heads)
        self.layer_norm2, self.mlp = nn.LayerNorm(dim), MLP(dim)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.layers = nn.ModuleList([Layer(dim, num_heads) for _ in range(num_layers)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPTextModel(nn.Module):
    """Token numbers in, one vector for each token out.

    vocab_size, max_tokens: what it can read; dim: width D, a multiple of num_heads; eos_id: the mark that ends a
    text, where `pooled` reads. Radford et al. 2021, section 2.4. Built in notebook 04.
    """

    def __init__(self, vocab_size, max_tokens, dim, num_layers, num_heads, eos_id=1):
        super().__init__()
        self.eos_id = eos_id
        self.embeddings = Embeddings(vocab_size, max_tokens, dim)
        self.encoder = Encoder(dim, num_layers, num_heads)
        self.final_layer_norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.02)  # GPT-2's and CLIP's start
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.01)

    def forward(self, ids):
        """Token numbers (B, L) -> context (B, L, D)."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))

    def pooled(self, ids, context):
        """The vector at the first end mark, which has seen the whole text: (B, D)."""
        end = (ids == self.eos_id).int().argmax(dim=-1)
        return context[torch.arange(len(ids), device=ids.device), end]
