"""The U-Net of Stable Diffusion, at our scale: text steers it through cross-attention, and once more through the step.

`TextTimeEmbedding` has the names and numbers of diffusers' (addition_embed_type="text"), so weights move both ways.
"""

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.generator.unet import UNet


class AttentionPooling(nn.Module):
    """One vector of a whole text: attention over all tokens, with their mean as the query.

    forward(context (B, L, D)) -> (B, D). Imagen, section 2.5 and appendix D.3.1. Built in notebook 06.
    """

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.randn(1, dim) / dim**0.5)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, head_dim)

    def forward(self, context):
        query = context.mean(dim=1, keepdim=True) + self.positional_embedding  # (B, 1, D)
        tokens = torch.cat([query, context], dim=1)  # (B, 1 + L, D)
        q, k, v = self.split(self.q_proj(query)), self.split(self.k_proj(tokens)), self.split(self.v_proj(tokens))
        return F.scaled_dot_product_attention(q, k, v).flatten(1)  # (B, heads, 1, head_dim) -> (B, D)


class TextTimeEmbedding(nn.Module):
    """The pooled text as a summand of the step embedding: (B, L, D) -> (B, time_dim). Built in notebook 06."""

    def __init__(self, context_dim, time_dim, num_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(context_dim)
        self.pool = AttentionPooling(context_dim, num_heads)
        self.proj = nn.Linear(context_dim, time_dim)
        self.norm2 = nn.LayerNorm(time_dim)

    def forward(self, context):
        return self.norm2(self.proj(self.pool(self.norm1(context))))


class LatentUNet(UNet):
    """A `UNet` with text whose step embedding also gets the pooled text: every residual block knows what to draw.

    pool_heads: heads of the pooling, None for none at all (Stable Diffusion 1.x has none); the rest as in `UNet`.
    forward(zt (B, C, H, W), t (B,), context (B, L, D)) -> (B, out_channels, H, W). Built in notebook 06.
    """

    def __init__(self, *args, context_dim, pool_heads=None, **options):
        super().__init__(*args, context_dim=context_dim, **options)
        if pool_heads:
            self.add_embedding = TextTimeEmbedding(context_dim, self.time_embedding.linear_1.out_features, pool_heads)

    def forward(self, x, t, context, context_mask=None):
        return super().forward(x, t, context, context_mask, added=context)
