"""DiT: a Transformer in the U-Net's place. Patches of the latent are its tokens; step and text set gains and gates.

zt ──► patches + positions ──► block ──► block ──► … ──► norm, projection ──► patches put back
                                 ▲         ▲                   ▲
         step + pooled text ─────┴─────────┴───────────────────┘    text tokens: cross-attention in every block

Modules carry diffusers' names: those of `DiTTransformer2DModel`, its `BasicTransformerBlock` with cross-attention, and
the step embedding of Stable Diffusion 3, so weights move both ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.layers import Attention, FeedForward, TimestepEmbedding, sinusoidal_embedding

FREQUENCIES = 256  # numbers that a step is made into before the linear layers, as in the paper's code
EPS = 1e-6  # of all norms: the paper's


def norm(dim: int) -> nn.LayerNorm:
    """A LayerNorm that learns nothing itself: what would be its gain and bias comes from step and text."""
    return nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Tokens x (B, N, D) with the gain 1 + scale and the bias shift, (B, D) each. Built in notebook 12."""
    return x * (1 + scale[:, None]) + shift[:, None]


def sincos_positions(height: int, width: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Where each of height x width patches lies: half of the numbers tell its column, half its row.

    dim: D, a multiple of 4. Returns (height * width, D) in [-1, 1]. Peebles and Xie 2023, section 3.2, after Vaswani et
    al. 2017. Built in notebook 12.
    """
    place = torch.arange(height * width, device=device)
    parts = [sinusoidal_embedding(x, dim // 2, flip_sin_to_cos=False) for x in (place % width, place // width)]
    return torch.cat(parts, dim=-1)


class PatchEmbed(nn.Module):
    """Cut a latent into patches and make a token of each: (B, C, H, W) -> (B, H/p * W/p, D). Built in notebook 12."""

    def __init__(self, in_channels: int, patch: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, x):
        h = self.proj(x)  # (B, D, H/p, W/p)
        return h.flatten(2).transpose(1, 2) + sincos_positions(*h.shape[2:], h.shape[1], h.device).to(x)


def unpatchify(tokens: torch.Tensor, height: int, width: int, patch: int) -> torch.Tensor:
    """Put patches back in their places: (B, height * width, p * p * C) -> (B, C, p * height, p * width)."""
    x = tokens.unflatten(1, (height, width)).unflatten(-1, (patch, patch, -1))  # (B, h, w, p, q, C)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (B, C, h, p, w, q) -> (B, C, h p, w q)


class TimeTextEmbedding(nn.Module):
    """One vector of the step and the whole text: t (B,), pooled (B, P) -> (B, D).

    Peebles and Xie 2023 add a class to the step in this way, Esser et al. 2024 CLIP's pooled text. Built in
    notebook 12.
    """

    def __init__(self, pooled_dim: int, dim: int):
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(FREQUENCIES, dim)
        self.text_embedder = TimestepEmbedding(pooled_dim, dim)

    def forward(self, t, pooled):
        step = sinusoidal_embedding(t, FREQUENCIES).to(pooled)
        return self.timestep_embedder(step) + self.text_embedder(pooled)


class AdaLayerNormZero(nn.Module):
    """A norm whose gain and bias come from step and text, with what the rest of the block needs from there.

    forward(x (B, N, D), temb (B, D)) -> normed x, gate of the attention; shift, scale and gate of the feed-forward,
    (B, D) each. It starts at zero: closed gates. Peebles and Xie 2023, figure 3. Built in notebook 12.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)
        self.norm = norm(dim)

    def forward(self, x, temb):
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.linear(F.silu(temb)).chunk(6, dim=-1)
        return modulate(self.norm(x), shift, scale), gate, shift_ff, scale_ff, gate_ff


class GELU(nn.Module):
    """A linear layer and the GELU, in its tanh form, of what it gives."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate="tanh")


class DiTBlock(nn.Module):
    """Self-attention between patches, cross-attention to the text, feed-forward; step and text open their gates.

    forward(x (B, N, D), temb (B, D), context (B, L, C), mask (B, L) or None) -> (B, N, D). Peebles and Xie 2023,
    figure 3, with the cross-attention of Chen et al. 2024 (PixArt), section 2.3. Built in notebook 12.
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int):
        super().__init__()
        head_dim = dim // num_heads
        self.norm1, self.norm2, self.norm3 = AdaLayerNormZero(dim), norm(dim), norm(dim)
        self.attn1 = Attention(dim, num_heads, head_dim, bias=True)
        self.attn2 = Attention(dim, num_heads, head_dim, context_dim, bias=True)
        self.ff = FeedForward(dim)
        self.ff.net[0] = GELU(dim, 4 * dim)

    def forward(self, x, temb, context, mask=None):
        h, gate, shift_ff, scale_ff, gate_ff = self.norm1(x, temb)
        x = x + gate[:, None] * self.attn1(h)
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + gate_ff[:, None] * self.ff(modulate(self.norm3(x), shift_ff, scale_ff))


class DiT(nn.Module):
    """Predict from a noised latent, its step and a caption what the objective asks for.

    patch: pixels a side that become a token; dim: width D, a multiple of 4 and of num_heads; context_dim, pooled_dim:
    numbers of a text token and of the pooled text. Untrained, it answers zero. Peebles and Xie 2023. Built in
    notebook 12.
    """

    def __init__(
        self,
        channels: int = 4,
        patch: int = 2,
        dim: int = 256,
        num_layers: int = 8,
        num_heads: int = 4,
        context_dim: int = 192,
        pooled_dim: int = 192,
    ):
        super().__init__()
        self.patch = patch
        self.pos_embed = PatchEmbed(channels, patch, dim)
        self.time_text_embed = TimeTextEmbedding(pooled_dim, dim)
        self.transformer_blocks = nn.ModuleList([DiTBlock(dim, num_heads, context_dim) for _ in range(num_layers)])
        self.norm_out = norm(dim)
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, patch * patch * channels)
        init_weights(self)

    def forward(self, xt, t, context, context_mask, pooled):
        """xt (B, C, H, W), t (B,) in 0 ... 1000, context (B, L, C), its mask (B, L) or None, pooled (B, P) -> xt's.

        H and W: multiples of the patch. What a masked token holds changes nothing.
        """
        height, width = (side // self.patch for side in xt.shape[-2:])
        temb = self.time_text_embed(t, pooled)  # (B, D)
        x = self.pos_embed(xt)  # (B, N, D)
        for block in self.transformer_blocks:
            x = block(x, temb, context, context_mask)
        shift, scale = self.proj_out_1(F.silu(temb)).chunk(2, dim=-1)
        x = self.proj_out_2(modulate(self.norm_out(x), shift, scale))  # (B, N, p * p * C)
        return unpatchify(x, height, width, self.patch)


def init_weights(dit: DiT) -> None:
    """Start as the paper does: even weights, but zero where a block would change its input, and at the end.

    With closed gates every block passes its tokens on as they are, so a deep stack learns from the first step. Peebles
    and Xie 2023, section 3.2; the cross-attention as in PixArt. Built in notebook 12.
    """
    for module in dit.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)
    blocks = dit.transformer_blocks
    silent = [part for block in blocks for part in (block.norm1.linear, block.attn2.to_out[0])]
    for module in [*silent, dit.proj_out_1, dit.proj_out_2]:
        nn.init.zeros_(module.weight)
