"""The parts every network of the course is made of: step embedding, residual block, attention, resizing.

Modules carry diffusers' names (`conv1`, `time_emb_proj`, `to_q`, ...), so weights move both ways without a key map.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------ the step, as a vector
def sinusoidal_embedding(t, dim, flip_sin_to_cos=True, freq_shift=0, max_period=10_000):
    """Return sines and cosines of the step at dim/2 frequencies.

    t: (B,) steps, whole or not. Returns (B, dim) float32 in [-1, 1]. Two conventions exist: OpenAI/LDM put
    cosines first and divide by dim/2 (flip_sin_to_cos=True, freq_shift=0); DDPM sines first, dim/2 - 1
    (False, 1). "Attention is all you need", section 3.5. Built in notebook 02.
    """
    half = dim // 2
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    angles = t[:, None].float() * torch.exp(exponent)  # (B, dim/2)
    sin, cos = angles.sin(), angles.cos()
    embedding = torch.cat([cos, sin] if flip_sin_to_cos else [sin, cos], dim=-1)
    return F.pad(embedding, (0, dim % 2))  # an odd dim is filled with one zero


class TimestepEmbedding(nn.Module):
    """Two linear layers that turn the sinusoidal features into what the blocks need. Built in notebook 02."""

    def __init__(self, in_dim: int, time_dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, time_dim)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(time_dim, time_dim)

    def forward(self, features):
        return self.linear_2(self.act(self.linear_1(features)))


# ------------------------------------------------------------------ residual block
class ResnetBlock2D(nn.Module):
    """GroupNorm -> SiLU -> convolution, twice, with the step added between, around a shortcut.

    forward(x (B, C_in, H, W), temb (B, time_dim) or None) -> (B, C_out, H, W).
    time_dim=None builds the block without a step, as the VAE uses it. DDPM, appendix B. Built in notebook 02.
    """

    def __init__(self, in_channels, out_channels, time_dim=None, groups=32, eps=1e-5):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels) if time_dim else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x, temb=None):
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C_out, H, W)
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nn.Module):
    """Halve height and width with a stride-2 convolution. Built in notebook 02."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)  # (B, C, H/2, W/2)


class Upsample2D(nn.Module):
    """Enlarge by repeating pixels, then smooth with a convolution. Built in notebook 02."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, size=None):
        """size: (H, W) to reach; None doubles. Sizes that are not a power of two need it."""
        scale = None if size is not None else 2.0
        return self.conv(F.interpolate(x, size=size, scale_factor=scale, mode="nearest"))


def resize(x, side) -> torch.Tensor:
    """Return pictures (B, C, H, W) at side x side pixels, smoothed before they are shrunk."""
    same = x.shape[-2:] == (side, side)
    return x if same else F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


# ------------------------------------------------------------------ attention
class Attention(nn.Module):
    """Multi-head attention; keys and values come from the context, or from x itself when there is none.

    forward(x (B, N, D), context (B, L, C) or None, mask (B, L) bool or None) -> (B, N, D); False masks a token.
    bias: of q, k and v (the output always has one). "Attention is all you need", eq. 1. Built in notebook 02.
    """

    def __init__(self, dim, num_heads, head_dim, context_dim=None, bias=False):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(0.0)])  # diffusers keeps a dropout here

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, head_dim)

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(context)), self.split(self.to_v(context))
        mask = None if mask is None else mask[:, None, None, :].bool()  # (B, 1, 1, L)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # softmax(q k^T / sqrt(d)) v
        return self.to_out[0](h.transpose(1, 2).flatten(2))  # (B, N, D)


class TextNorm(nn.LayerNorm):
    """LayerNorm of a text's vectors (B, L, D); a vector of zeros, where nothing is said, stays one.

    Without the second part its gradient would be divided by the norm's eps. Imagen, section 2.5. Built in notebook 09.
    """

    def forward(self, context):
        return super().forward(context) * context.any(dim=-1, keepdim=True)


class AttentionBlock(Attention):
    """Self-attention between the pixels of a feature map, with its norm and shortcut (as in DDPM's U-Net).

    forward(x (B, C, H, W)) -> the same shape. Built in notebook 02.
    """

    def __init__(self, channels, num_heads, groups=32, eps=1e-5):
        super().__init__(channels, num_heads, channels // num_heads, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, x, context=None, mask=None):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = super().forward(tokens).transpose(1, 2).reshape(x.shape)
        return x + h


class GEGLU(nn.Module):
    """A linear layer whose second half gates the first through GELU. Shazeer 2020, eq. 6. Built in notebook 04."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x):
        h, gate = self.proj(x).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. Built in notebook 04."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward, each with pre-norm and shortcut.

    LDM, appendix B.1. Built in notebook 04.
    """

    def __init__(self, dim, num_heads, context_dim):
        super().__init__()
        head_dim = dim // num_heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1 = Attention(dim, num_heads, head_dim)
        self.attn2 = Attention(dim, num_heads, head_dim, context_dim)
        self.ff = FeedForward(dim)

    def forward(self, x, context=None, mask=None):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + self.ff(self.norm3(x))


class Transformer2D(nn.Module):
    """A transformer block over the pixels of a feature map, where text enters the picture.

    forward(x (B, C, H, W), context (B, L, D), mask (B, L) or None) -> (B, C, H, W). LDM, section 3.3 and B.1.
    Built in notebook 04.
    """

    def __init__(self, channels, num_heads, context_dim, groups=32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)  # LDM's own eps, unlike the residual block's
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_dim)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, context=None, mask=None):
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = self.transformer_blocks[0](h, context, mask)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


# ------------------------------------------------------------------ a Transformer with CLIP's names
class SelfAttention(nn.Module):
    """Multi-head attention; if causal, token i sees tokens 0 ... i only. Built in notebook 04."""

    def __init__(self, dim: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, head_dim)

    def forward(self, x):
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
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

    def __init__(self, dim: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(dim), SelfAttention(dim, num_heads, causal)
        self.layer_norm2, self.mlp = nn.LayerNorm(dim), MLP(dim)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of layers, (B, L, D) -> (B, L, D). Built in notebook 04."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.layers = nn.ModuleList([Layer(dim, num_heads, causal) for _ in range(num_layers)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
