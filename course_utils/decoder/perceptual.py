"""How different two pictures look: the distance between what a small classifier sees in them, layer by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (16, 32, 64, 96)  # channels at 64, 32, 16 and 8 pixels a side: cheap beside the autoencoder it teaches


class FeatureNet(nn.Module):
    """A plain convolutional classifier of the concept in a picture. Its inner layers are what we are after.

    It is not the evaluator: other layers, another seed, no other task, so what a decoder learns to please here cannot
    please the judge by construction. forward(x (B, 3, H, W) in [-1, 1]) -> logits (B, num_concepts).
    Simonyan and Zisserman 2015 (VGG), with GroupNorm. Built in notebook 05.
    """

    def __init__(self, num_concepts=1015, widths=WIDTHS):
        super().__init__()
        stages, before = [], 3
        for i, width in enumerate(widths):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1),
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.concept = nn.Linear(before, num_concepts)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps after each stage, [(B, 16, H, W), (B, 32, H/2, W/2), ...]."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.concept(self.features(x)[-1].mean(dim=(2, 3)))


def perceptual_distance(net: FeatureNet, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How differently `net` sees two batches of pictures (B, 3, H, W): one number for each, (B,), 0 if equal.

    At each place of each layer the feature vectors are brought to unit length; their squared distances are averaged
    over the places and summed over the layers. Zhang et al. 2018 (LPIPS), eq. 1, with all weights 1.
    Built in notebook 05.
    """
    distance = 0
    for a, b in zip(net.features(x), net.features(y), strict=True):
        gap = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
        distance = distance + gap.square().sum(dim=1).mean(dim=(1, 2))  # (B,)
    return distance
