"""The variational autoencoder: a picture becomes a small latent, and the latent a picture again.

Modules carry the names of diffusers' `AutoencoderKL`: state dicts load strictly both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.layers import AttentionBlock, Downsample2D, ResnetBlock2D, Upsample2D

EPS = 1e-6  # of every norm in an LDM autoencoder


@dataclass(frozen=True)
class Gaussian:
    """What the encoder answers: for every number of the latent a mean and the logarithm of a variance, (B, C, H, W).

    Kingma and Welling 2014, section 3. Built in notebook 05.
    """

    mean: torch.Tensor
    logvar: torch.Tensor

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw a latent: mean + std * noise, so that the gradient reaches both. generator: a CPU one."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + torch.exp(self.logvar / 2) * noise

    def kl(self) -> torch.Tensor:
        """How far this lies from a standard Gaussian, in nats a picture: (B,). Appendix B there."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


class PaddedDownsample2D(Downsample2D):
    """Halve height and width; one row and column of zeros at the far edge only, as LDM does. Built in notebook 05."""

    def __init__(self, channels):
        super().__init__(channels)
        self.conv.padding = (0, 0)

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class VAEBlock(nn.Module):
    """Residual blocks at one size, then perhaps a change of size. Built in notebook 05."""

    def __init__(self, before, width, num_blocks, groups, down=False, up=False):
        super().__init__()
        widths = [before] + [width] * num_blocks
        pairs = zip(widths, widths[1:], strict=False)
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, groups=groups, eps=EPS) for a, b in pairs])
        if down:
            self.downsamplers = nn.ModuleList([PaddedDownsample2D(width)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample2D(width)])

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        for resize in [*getattr(self, "downsamplers", []), *getattr(self, "upsamplers", [])]:
            x = resize(x)
        return x


class VAEMidBlock(nn.Module):
    """Residual, self-attention over all places, residual, at the smallest size. Built in notebook 05."""

    def __init__(self, width, groups):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(width, width, groups=groups, eps=EPS) for _ in range(2)])
        self.attentions = nn.ModuleList([AttentionBlock(width, num_heads=1, groups=groups, eps=EPS)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """(B, 3, H, W) -> (B, 2 C, H/f, W/f), f = 2 ** (levels - 1). LDM, appendix E. Built in notebook 05."""

    def __init__(self, in_channels, out_channels, channels, num_blocks, groups):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        sizes = zip([channels[0], *channels], channels, strict=False)
        last = len(channels) - 1
        self.down_blocks = nn.ModuleList(
            [VAEBlock(before, width, num_blocks, groups, down=i < last) for i, (before, width) in enumerate(sizes)]
        )
        self.mid_block = VAEMidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=EPS)
        self.conv_out = nn.Conv2d(channels[-1], out_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """(B, C, H/f, W/f) -> (B, 3, H, W): the encoder's mirror, one residual block more a level. Built in notebook 05."""

    def __init__(self, in_channels, out_channels, channels, num_blocks, groups):
        super().__init__()
        wide = list(reversed(channels))
        self.conv_in = nn.Conv2d(in_channels, wide[0], 3, padding=1)
        self.mid_block = VAEMidBlock(wide[0], groups)
        sizes = zip([wide[0], *wide], wide, strict=False)
        last = len(wide) - 1
        self.up_blocks = nn.ModuleList(
            [VAEBlock(before, width, num_blocks + 1, groups, up=i < last) for i, (before, width) in enumerate(sizes)]
        )
        self.conv_norm_out = nn.GroupNorm(groups, wide[-1], eps=EPS)
        self.conv_out = nn.Conv2d(wide[-1], out_channels, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Encode pictures (B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/f, W/f), and decode them.

    channels: width of each level, first the full size, where pixels are many and channels few; every level but the
    last halves the side; num_blocks: residual blocks a level of the encoder; groups: of GroupNorm.
    Rombach et al. 2022 (LDM), section 3.1. Built in notebook 05.
    """

    def __init__(self, channels=(16, 48, 96), latent_channels=4, num_blocks=1, groups=8, in_channels=3):
        super().__init__()
        self.encoder = Encoder(in_channels, 2 * latent_channels, channels, num_blocks, groups)
        self.decoder = Decoder(latent_channels, in_channels, channels, num_blocks, groups)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, x: torch.Tensor) -> Gaussian:
        """The Gaussian of the latents of pictures (B, 3, H, W)."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-30, 20))  # LDM's clamp: exp stays finite

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, H, W), about [-1, 1], of latents (B, C, H/f, W/f)."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x, generator=None):
        """Encode, draw a latent, decode it: returns the pictures like x, and the Gaussian."""
        gaussian = self.encode(x)
        return self.decode(gaussian.sample(generator)), gaussian
