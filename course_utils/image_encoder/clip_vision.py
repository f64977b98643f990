"""CLIP's picture towers: a Vision Transformer, and a residual network that learns faster from few pictures.

The Transformer's modules carry the names of transformers' `CLIPVisionModel`: state dicts load strictly both ways.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.layers import Downsample2D, Encoder, ResnetBlock2D


class VisionEmbeddings(nn.Module):
    """A picture as a row of tokens, (B, 3, H, W) -> (B, 1 + N, D): a class token, then a vector for each patch.

    Dosovitskiy et al. 2021, eq. 1. Built in notebook 07.
    """

    def __init__(self, size: int, patch_size: int, dim: int):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.patch_embedding = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=False)
        self.position_embedding = nn.Embedding(1 + (size // patch_size) ** 2, dim)

    def forward(self, x):
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], dim=1)
        return tokens + self.position_embedding.weight  # (B, 1 + N, D)


class CLIPVisionModel(nn.Module):
    """Pictures (B, 3, size, size) in, a vector for each patch out: `forward` (B, 1 + N, D), `pooled` (B, D).

    size: pixels a side, a multiple of patch_size; dim: width D, a multiple of num_heads. Every patch sees all others.
    Radford et al. 2021, section 2.4. Built in notebook 07.
    """

    def __init__(self, size: int, patch_size: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.embeddings = VisionEmbeddings(size, patch_size, dim)
        self.pre_layrnorm = nn.LayerNorm(dim)  # so spelt in every CLIP checkpoint there is
        self.encoder = Encoder(dim, num_layers, num_heads, causal=False)
        self.post_layernorm = nn.LayerNorm(dim)
        nn.init.normal_(self.embeddings.patch_embedding.weight, std=0.02)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.02)

    def forward(self, x):
        return self.encoder(self.pre_layrnorm(self.embeddings(x)))  # (B, 1 + N, D)

    def pooled(self, x):
        """The vector of the class token, which has seen the whole picture: (B, 3, H, W) -> (B, D)."""
        return self.post_layernorm(self.forward(x)[:, 0])


class ResNetVisionModel(nn.Module):
    """Pictures (B, 3, size, size) in, one vector out: `pooled` (B, D). A residual network, as CLIP's RN50 is one.

    widths: channels after the stem and after each halving of the side; the last is D. blocks: residual blocks a
    stage. He et al. 2016, section 3.3, with GroupNorm; Radford et al. 2021, section 2.4. Built in notebook 07.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 192, 384), blocks: tuple[int, ...] = (1, 1, 1)):
        super().__init__()
        first = nn.Conv2d(12, widths[0], 3, padding=1)  # sees 2 x 2 pixels folded into channels: half the side
        self.stem = nn.Sequential(first, nn.GroupNorm(8, widths[0]), nn.SiLU())
        self.stages = nn.ModuleList()
        for (before, width), count in zip(pairwise(widths), blocks, strict=True):
            resnets = [ResnetBlock2D(width if i else before, width, groups=8) for i in range(count)]
            self.stages.append(nn.Sequential(Downsample2D(before), *resnets))
        self.norm = nn.GroupNorm(8, widths[-1])

    def pooled(self, x):
        """The mean over the picture of what the last stage found: (B, 3, H, W) -> (B, D)."""
        h = self.stem(F.pixel_unshuffle(x, 2))  # (B, 12, H/2, W/2) -> (B, 48, H/2, W/2)
        for stage in self.stages:
            h = stage(h)
        return F.silu(self.norm(h)).mean(dim=(2, 3))
