"""DALL·E 2's diffusion prior: from a caption to the CLIP vector of a picture that it may belong to.

text tokens, text_embed, step, noised image_embed, query ──► causal Transformer ──► at the query: the clean image_embed

`PriorTransformer` has the names and numbers of diffusers', so weights move both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.generator.guidance import apply_guidance, pad_and_cat
from course_utils.generator.objectives import Model
from course_utils.layers import Attention, FeedForward, TimestepEmbedding, sinusoidal_embedding

EXTRA = 4  # tokens after the text's: text vector, step, noised image vector, query


class CausalAttention(Attention):
    """Self-attention in which token i sees those of tokens 0 ... i that the mask (B, N) shows. Built in notebook 08."""

    def forward(self, x, mask):
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(x)), self.split(self.to_v(x))
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :] & before)  # (B, 1, N, N)
        return self.to_out[0](h.transpose(1, 2).flatten(2))  # (B, N, D)


class GELU(nn.Module):
    """A linear layer and the GELU of what it gives."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x):
        return F.gelu(self.proj(x))


class CausalBlock(nn.Module):
    """Causal self-attention and feed-forward, each with pre-norm and shortcut. Built in notebook 08."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)  # diffusers' norm2 is for cross-attention
        self.attn1 = CausalAttention(dim, num_heads, dim // num_heads, bias=True)
        self.ff = FeedForward(dim)
        self.ff.net[0] = GELU(dim, 4 * dim)

    def forward(self, x, mask):
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


class PriorTransformer(nn.Module):
    """Predict the clean image vector from a noised one, its step and a caption.

    embed_dim: numbers D of a CLIP vector and of a text token's; max_tokens: of the longest caption; dim: width, a
    multiple of num_heads. It works on image vectors times sqrt(D), whose numbers have a mean square of 1, as the noise
    has. Ramesh et al. 2022, section 2.2. Built in notebook 08.
    """

    def __init__(self, embed_dim: int, max_tokens: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.time_embedding = TimestepEmbedding(dim, dim)
        self.proj_in = nn.Linear(embed_dim, dim)
        self.embedding_proj = nn.Linear(embed_dim, dim)
        self.encoder_hidden_states_proj = nn.Linear(embed_dim, dim)
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1, max_tokens + EXTRA, dim))
        self.prd_embedding = nn.Parameter(0.02 * torch.randn(1, 1, dim))  # the query
        self.transformer_blocks = nn.ModuleList([CausalBlock(dim, num_heads) for _ in range(num_layers)])
        self.norm_out = nn.LayerNorm(dim)
        self.proj_to_clip_embeddings = nn.Linear(dim, embed_dim)
        self.clip_mean = nn.Parameter(torch.zeros(1, embed_dim), requires_grad=False)
        self.clip_std = nn.Parameter(torch.full((1, embed_dim), embed_dim**-0.5), requires_grad=False)

    def scale(self, image_embed: torch.Tensor) -> torch.Tensor:
        """Image vectors (..., D) of unit length as the network knows them: times sqrt(D)."""
        return (image_embed - self.clip_mean) / self.clip_std

    def unscale(self, x0: torch.Tensor) -> torch.Tensor:
        """What the network knows, (..., D), as image vectors of unit length again."""
        return F.normalize(x0 * self.clip_std + self.clip_mean, dim=-1)

    def forward(self, xt, t, context, context_mask, text_embed):
        """xt (B, D), t (B,), context (B, L, D), context_mask (B, L), text_embed (B, D) -> x0 (B, D).

        L may be anything up to max_tokens: what a longer caption's padding holds changes nothing.
        """
        step = self.time_embedding(sinusoidal_embedding(t, self.prd_embedding.shape[-1]).to(self.prd_embedding.dtype))
        last = torch.stack([self.embedding_proj(text_embed), step, self.proj_in(xt)], dim=1)  # (B, 3, dim)
        query = self.prd_embedding.expand(len(xt), -1, -1)
        tokens = torch.cat([self.encoder_hidden_states_proj(context), last.to(query), query], dim=1)  # (B, L + 4, dim)
        place = self.positional_embedding
        x = tokens + torch.cat([place[:, : context.shape[1]], place[:, -EXTRA:]], dim=1)
        mask = F.pad(context_mask, (0, EXTRA), value=True)  # (B, L + 4)
        for block in self.transformer_blocks:
            x = block(x, mask)
        return self.proj_to_clip_embeddings(self.norm_out(x[:, -1]))


def guided_prior(
    prior: nn.Module, text: Sequence[torch.Tensor], scale: float = 1.0, away: Sequence[torch.Tensor] | None = None
) -> Model:
    """A model (xt, t) -> x0 that follows B captions with this scale.

    text: context (B, L, D), its mask (B, L), text_embed (B, D); away: the same of what to move away from, as a rule B
    empty captions. With scale 1, or nothing to move away from, the model runs once. Guidance narrows what the prior
    draws; at 1 it is as wide as the pictures that a caption may belong to. Built in notebook 08.
    """
    if scale == 1 or away is None:
        return lambda xt, t: prior(xt, t, *text)
    both = [pad_and_cat(*pair) for pair in zip(away, text, strict=True)]

    def answer(xt, t):
        return apply_guidance(*prior(torch.cat([xt, xt]), torch.cat([t, t]), *both).chunk(2), scale)

    return answer


def keep_better(draws: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
    """Of n draws for each caption, (B, n, D), the one nearest to its text vector (B, D): (B, D), all of unit length.

    Ramesh et al. 2022, section 2.2, with n = 2. Built in notebook 08.
    """
    best = (draws @ text_embed[:, :, None]).squeeze(-1).argmax(dim=1)  # (B, n) -> (B,)
    return draws[torch.arange(len(draws), device=draws.device), best]
