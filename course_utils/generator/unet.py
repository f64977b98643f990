"""The noise predictor: a U-Net that sees the picture at several sizes, and knows which step it is at.

Without a context it has the module names and numbers of diffusers' `UNet2DModel`, with one those of
`UNet2DConditionModel`: state dicts load strictly both ways.
"""

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.errors import InputError
from course_utils.layers import (
    AttentionBlock,
    Downsample2D,
    ResnetBlock2D,
    TimestepEmbedding,
    Transformer2D,
    Upsample2D,
    sinusoidal_embedding,
)


class AddedEmbedding(nn.Module):
    """Turn an extra vector, such as a CLIP image embedding, into a summand of the step embedding."""

    def __init__(self, added_dim: int, time_dim: int):
        super().__init__()
        self.image_proj = nn.Linear(added_dim, time_dim)
        self.image_norm = nn.LayerNorm(time_dim)

    def forward(self, added):
        return self.image_norm(self.image_proj(added))  # (B, time_dim)


class Block(nn.Module):
    """Residual blocks, an attention after each where asked for: the common part of down, middle and up."""

    def __init__(self, sizes, time_dim, attention, groups):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, time_dim, groups) for a, b in sizes])
        if attention is not None:
            self.attentions = nn.ModuleList([attention(b) for _, b in sizes])

    def attend(self, i, x, context, mask):
        return self.attentions[i](x, context, mask) if hasattr(self, "attentions") else x


class DownBlock(Block):
    """One level of the way down: keeps every intermediate result for the way up. Built in notebook 02."""

    def __init__(self, sizes, time_dim, attention, groups, downsample):
        super().__init__(sizes, time_dim, attention, groups)
        if downsample:
            self.downsamplers = nn.ModuleList([Downsample2D(sizes[-1][1])])

    def forward(self, x, temb, context=None, mask=None):
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = self.attend(i, resnet(x, temb), context, mask)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)  # (B, C, H/2, W/2)
            skips.append(x)
        return x, skips


class MidBlock(Block):
    """Residual, attention, residual at the smallest size. Built in notebook 02."""

    def __init__(self, channels, time_dim, attention, groups):
        super().__init__([(channels, channels)] * 2, time_dim, None, groups)
        if attention is not None:
            self.attentions = nn.ModuleList([attention(channels)])

    def forward(self, x, temb, context=None, mask=None):
        x = self.attend(0, self.resnets[0](x, temb), context, mask)
        return self.resnets[1](x, temb)


class UpBlock(Block):
    """One level of the way up: each residual block also reads the matching skip. Built in notebook 02."""

    def __init__(self, sizes, time_dim, attention, groups, upsample):
        super().__init__(sizes, time_dim, attention, groups)
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample2D(sizes[-1][1])])

    def forward(self, x, temb, skips, context=None, mask=None):
        for i, resnet in enumerate(self.resnets):
            x = torch.cat([x, skips.pop()], dim=1)  # (B, C + C_skip, H, W)
            x = self.attend(i, resnet(x, temb), context, mask)
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0](x, size=skips[-1].shape[-2:])  # (B, C, 2H, 2W)
        return x


class UNet(nn.Module):
    """Predict noise (or x0, or v) from a noisy picture and its step.

    channels: width of each level, first the full size; attention: for each level, whether it has attention;
    num_heads: heads of every attention, or None for channels // head_dim of them; groups: of GroupNorm;
    context_dim: size of the text vectors (None: no text); num_classes, added_dim: optional class label and
    extra vector, both added to the step. DDPM appendix B, LDM section 3.3. Built in notebook 02.
    """

    def __init__(
        self,
        in_channels=3,
        out_channels=3,
        channels=(64, 128),
        num_res_blocks=2,
        attention=(False, True),
        mid_attention=True,
        num_heads=None,
        head_dim=8,
        groups=32,
        context_dim=None,
        num_classes=None,
        added_dim=None,
    ):
        super().__init__()
        if len(channels) != len(attention):
            raise InputError(f"channels and attention must have one entry a level, not {channels} and {attention}")
        time_dim = 4 * channels[0]
        levels = list(range(len(channels)))

        def attend(width):
            heads = num_heads or width // head_dim
            if context_dim is None:
                return AttentionBlock(width, heads, groups)
            return Transformer2D(width, heads, context_dim, groups)

        def attend_if(wanted):
            return attend if wanted else None

        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_dim)
        self.class_embedding = nn.Embedding(num_classes, time_dim) if num_classes else None
        self.add_embedding = AddedEmbedding(added_dim, time_dim) if added_dim else None

        self.down_blocks, skip_widths, width = nn.ModuleList(), [channels[0]], channels[0]
        for level in levels:
            sizes = [(width if i == 0 else channels[level], channels[level]) for i in range(num_res_blocks)]
            width, last = channels[level], level == levels[-1]
            self.down_blocks.append(DownBlock(sizes, time_dim, attend_if(attention[level]), groups, not last))
            skip_widths += [width] * (num_res_blocks + (not last))

        self.mid_block = MidBlock(width, time_dim, attend_if(mid_attention), groups)

        self.up_blocks = nn.ModuleList()
        for level in reversed(levels):
            sizes = []
            for _ in range(num_res_blocks + 1):  # one block more than on the way down: the skip of conv_in or stride
                sizes.append((width + skip_widths.pop(), channels[level]))
                width = channels[level]
            self.up_blocks.append(UpBlock(sizes, time_dim, attend_if(attention[level]), groups, level != 0))

        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def embed(self, t, class_labels=None, added=None):
        """The vector (B, time_dim) that tells every block the step, the class and the extra vector."""
        features = sinusoidal_embedding(t, self.time_embedding.linear_1.in_features)
        temb = self.time_embedding(features.to(self.conv_in.weight.dtype))
        if self.class_embedding is not None:
            temb = temb + self.class_embedding(class_labels)
        if self.add_embedding is not None:
            temb = temb + self.add_embedding(added)
        return temb

    def forward(self, x, t, context=None, context_mask=None, class_labels=None, added=None):
        """x (B, C, H, W), t (B,), context (B, L, D), context_mask (B, L), class_labels (B,), added (B, A)."""
        temb = self.embed(t, class_labels, added)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, new = block(x, temb, context, context_mask)
            skips += new
        x = self.mid_block(x, temb, context, context_mask)
        for block in self.up_blocks:
            x = block(x, temb, skips, context, context_mask)
        return self.conv_out(F.silu(self.conv_norm_out(x)))  # (B, out_channels, H, W)


class Patched(nn.Module):
    """Let a U-Net see patch x patch pixels as one: the picture is folded into channels before it, and back after.

    The work falls by patch**2, and no pixel is lost. The U-Net needs 3 * patch**2 channels in and out. residual: add
    the input to the answer, so that a network asked for noise need not copy it where noise is all there is.
    Hoogeboom et al. 2023 (simple diffusion), section 3.3. Built in notebook 02.
    """

    def __init__(self, unet: nn.Module, patch: int = 2, residual: bool = False):
        super().__init__()
        self.unet, self.patch, self.residual = unet, patch, residual

    def forward(self, x, t, **conditions):
        h = self.unet(F.pixel_unshuffle(x, self.patch), t, **conditions)  # (B, C p^2, H/p, W/p)
        h = F.pixel_shuffle(h, self.patch)
        return x + h if self.residual else h
