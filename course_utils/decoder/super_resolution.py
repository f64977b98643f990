"""Super-resolution: a small picture is enlarged, and a network paints what its few pixels could not hold.

small picture ──► augment ──► enlarge ──► low ──┬─────────────────────────────► + ──► picture (B, 3, H, W)
                     level ─────────────┐       ▼                               ▲
noise (B, 3, H, W) ─────────────────► Efficient U-Net, several steps ──► residual, times its size
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.layers import (
    Downsample2D,
    ResnetBlock2D,
    TextNorm,
    TimestepEmbedding,
    Transformer2D,
    Upsample2D,
    resize,
    sinusoidal_embedding,
)

SKIP_SCALE = 2**-0.5  # keeps the variance of a sum of two: Imagen, section 2.3
MAX_LEVEL = (
    0.2  # strongest noise on small pictures in training. The paper goes to 1, and trains a thousand times longer
)
P_CLEAN = 0.3  # share of small pictures that get none


# ------------------------------------------------------------------ what the network is given
def enlarge(small: torch.Tensor, side: int) -> torch.Tensor:
    """Small pictures (B, 3, h, w) at side x side pixels by bicubic interpolation. Built in notebook 09."""
    return F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)


def augment(small: torch.Tensor, level: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Noise conditioning augmentation: hide the small picture's details, and so its faults, in noise.

    small, eps: (B, 3, h, w); level: (B,), the noise's standard deviation, 0 (as it is) to 1 (noise alone). Returns
    sqrt(1 - level^2) small + level eps. Ho et al. 2021 (cascaded diffusion), section 4.2; Imagen, section 2.4. Built in
    notebook 09.
    """
    level = level.view(-1, 1, 1, 1).to(small)
    return (1 - level**2).sqrt() * small + level * eps


def sample_levels(
    n: int, max_level: float = MAX_LEVEL, p_clean: float = P_CLEAN, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw n noise levels, (n,): 0 with p_clean, else even in [0, max_level]. Built in notebook 09."""
    level, clean = max_level * torch.rand(n, generator=generator), torch.rand(n, generator=generator) < p_clean
    return torch.where(clean, 0.0, level)


def make_low(
    x: torch.Tensor, small_side: int, level: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """What the network is shown of pictures x (B, 3, H, W): shrunk, noised as far as level (B,) says, enlarged again.

    Returns (B, 3, H, W). Built in notebook 09.
    """
    small = resize(x, small_side)
    eps = torch.randn(small.shape, generator=generator).to(small)
    return enlarge(augment(small, level, eps), x.shape[-1])


def random_crops(pictures: list[torch.Tensor], side: int, generator: torch.Generator | None = None):
    """A square of side x side from each picture, the same one in every batch of the list: (B, C, H, W) each.

    Crop what was shrunk and enlarged as a whole: at a crop's border, bicubic interpolation would lack its neighbours.
    Returns a list of (B, C, side, side). Imagen, section 2.3. Built in notebook 09.
    """
    count, room = len(pictures[0]), pictures[0].shape[-1] - side
    corners = torch.randint(room + 1, (count, 2), generator=generator).tolist()
    return [
        torch.stack([x[:, i : i + side, j : j + side] for x, (i, j) in zip(batch, corners, strict=True)])
        for batch in pictures
    ]


# ------------------------------------------------------------------ what the network paints
def residual_scale(level: torch.Tensor, residual_std: float) -> torch.Tensor:
    """How large the residual is, (B, 1, 1, 1): what enlarging cannot know, and the noise that must go again."""
    return (residual_std**2 + level.view(-1, 1, 1, 1) ** 2).sqrt()


def to_residual(x0: torch.Tensor, low: torch.Tensor, level: torch.Tensor, residual_std: float) -> torch.Tensor:
    """What is missing from low to x0, both (B, 3, H, W), divided by its size, so that its variance is about 1.

    The diffusion of Li et al. 2022 (SRDiff), section 3.2, with noise conditioning. Built in notebook 09.
    """
    return (x0 - low) / residual_scale(level, residual_std).to(low)


def from_residual(residual: torch.Tensor, low: torch.Tensor, level: torch.Tensor, residual_std: float) -> torch.Tensor:
    """The picture (B, 3, H, W) that a residual makes of low: the inverse of `to_residual`. Built in notebook 09."""
    return low + residual_scale(level, residual_std).to(low) * residual


# ------------------------------------------------------------------ Efficient U-Net
class LevelEmbedding(TimestepEmbedding):
    """The noise level of the small picture, (B,) in [0, 1], as a summand of the step embedding.

    diffusers' class_embed_type="timestep", whose class label is 1000 x the level. Built in notebook 09.
    """

    def forward(self, level):
        features = sinusoidal_embedding(1000 * level, self.linear_1.in_features)
        return super().forward(features.to(self.linear_1.weight.dtype))  # (B, time_dim)


class DBlock(nn.Module):
    """One level of the way down: downsample first, then convolve, then perhaps attend.

    forward(x (B, C_in, H, W), temb, context) -> (B, C, H/2, W/2). Imagen, figure A.28. Built in notebook 09.
    """

    def __init__(self, before, width, num_blocks, time_dim, groups, attention=None):
        super().__init__()
        self.downsamplers = nn.ModuleList([Downsample2D(before)])
        widths = [before] + [width] * num_blocks
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, time_dim, groups) for a, b in zip(widths, widths[1:])])
        if attention is not None:
            self.attentions = nn.ModuleList([attention(width)])

    def forward(self, x, temb, context=None):
        x = self.downsamplers[0](x)  # (B, C_in, H/2, W/2): all that follows costs a quarter
        for resnet in self.resnets:
            x = resnet(x, temb)
        return self.attentions[0](x, context) if hasattr(self, "attentions") else x


class UBlock(nn.Module):
    """One level of the way up: take the skip, convolve, perhaps attend, and upsample last.

    forward(x (B, C_in, H, W), temb, skip (B, C_skip, H, W) or None, context) -> (B, C, 2H, 2W).
    Imagen, figure A.29. Built in notebook 09.
    """

    def __init__(self, before, skip, width, num_blocks, time_dim, groups, attention=None, skip_scale=SKIP_SCALE):
        super().__init__()
        self.skip_scale = skip_scale
        widths = [before + skip] + [width] * num_blocks
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, time_dim, groups) for a, b in zip(widths, widths[1:])])
        if attention is not None:
            self.attentions = nn.ModuleList([attention(width)])
        self.upsamplers = nn.ModuleList([Upsample2D(width)])

    def forward(self, x, temb, skip=None, context=None):
        if skip is not None:
            x = torch.cat([x, self.skip_scale * skip], dim=1)  # (B, C_in + C_skip, H, W)
        for resnet in self.resnets:
            x = resnet(x, temb)
        if hasattr(self, "attentions"):
            x = self.attentions[0](x, context)
        return self.upsamplers[0](x)  # (B, C, 2H, 2W)


class EfficientUNet(nn.Module):
    """Paint the residual of an enlarged picture: most blocks at low resolution, hardly any work at the full one.

    channels: width of each level, the first at half the side; num_blocks: residual blocks of each, more the smaller the
    level; attention: whether each level attends to itself and to the text; context_dim: width of the text's vectors
    (None: no text); skip_scale: of the long skips. The input goes into the last convolution too: nothing but two
    convolutions sees the full size. Saharia et al. 2022 (Imagen), section 2.3 and appendix B. Built in notebook 09.
    """

    def __init__(
        self,
        channels=(24, 48, 96),
        num_blocks=(1, 2, 4),
        attention=(False, False, False),
        context_dim=None,
        num_heads=4,
        groups=8,
        skip_scale=SKIP_SCALE,
    ):
        super().__init__()
        first, time_dim = channels[0], 4 * channels[0]

        def attend_if(wanted) -> Callable | None:
            return (lambda width: Transformer2D(width, num_heads, context_dim, groups)) if wanted else None

        self.conv_in = nn.Conv2d(6, first, 3, padding=1)
        self.time_embedding = TimestepEmbedding(first, time_dim)
        self.class_embedding = LevelEmbedding(first, time_dim)
        self.context_norm = TextNorm(context_dim) if context_dim else None

        levels = list(zip([first, *channels], channels, num_blocks, map(attend_if, attention)))
        self.down_blocks = nn.ModuleList(
            [DBlock(before, width, blocks, time_dim, groups, attend) for before, width, blocks, attend in levels]
        )
        self.up_blocks, below = nn.ModuleList(), 0
        for _, width, blocks, attend in reversed(levels):  # the smallest level begins with its own result, and no skip
            sizes = (below, width) if below else (width, 0)
            self.up_blocks.append(UBlock(*sizes, width, blocks, time_dim, groups, attend, skip_scale))
            below = width

        self.conv_norm_out = nn.GroupNorm(groups, first, eps=1e-5)
        self.conv_out = nn.Conv2d(first + 6, 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # begins silent
        nn.init.zeros_(self.conv_out.bias)

    @property
    def factor(self) -> int:
        """What the sides of a picture must be multiples of."""
        return 2 ** len(self.down_blocks)

    def embed(self, t, level):
        """The vector (B, time_dim) that tells every block the step and the noise level."""
        features = sinusoidal_embedding(t, self.time_embedding.linear_1.in_features)
        return self.time_embedding(features.to(self.conv_in.weight.dtype)) + self.class_embedding(level)

    def forward(self, x, t, low, level, context=None):
        """x, low (B, 3, H, W), t (B,), level (B,) in [0, 1], context (B, L, D) or None -> (B, 3, H, W)."""
        temb = self.embed(t, level)
        context = context if context is None else self.context_norm(context)
        given = torch.cat([x, low], dim=1)  # (B, 6, H, W)
        h, skips = self.conv_in(given), []
        for block in self.down_blocks:
            h = block(h, temb, context)
            skips.append(h)
        skips[-1] = None  # that is h itself
        for block in self.up_blocks:
            h = block(h, temb, skips.pop(), context)
        h = F.silu(self.conv_norm_out(h))  # (B, C, H, W)
        return self.conv_out(torch.cat([h, given], dim=1))
