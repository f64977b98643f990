"""The evaluator: one small classifier that says what a picture shows, and so measures every generator of the course.

    picture -> 64 x 64 -> [stem] -> [stages] -> features -> concept, color, background
                                └──────┴─────> texture --> style

It has seen real pictures with their compositions, and no generator is ever trained on what it says. Its trunk began as
CLIP's, which knew what pictures show; so where CLIP's vectors are drawn, CLIP's own score beside it says little new.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.data import STYLES, load_emoji
from course_utils.datasets.compose import BACKGROUNDS, WORDS_ZH
from course_utils.image_encoder.clip_vision import ResNetVisionModel
from course_utils.layers import resize

NUM_CONCEPTS = 1015  # of all the data; `class_names` has them by name
SIDE = 64  # pixels a side at which pictures are judged, whatever their size
TEXTURE = 3  # maps that the style is told from: after the stem, and after the first two stages
ATTRIBUTES = ("concept", "style", "color", "background")


class EvaluatorOutput(NamedTuple):
    """What the evaluator says of B pictures: logits over each attribute's classes, and the features beneath them."""

    concept: torch.Tensor  # (B, 1015)
    style: torch.Tensor  # (B, 8)
    color: torch.Tensor  # (B, 11)
    background: torch.Tensor  # (B, 12)
    features: torch.Tensor  # (B, F)


class FeatureNorm(nn.Module):
    """Batch normalization without gain: features (B, F) to mean 0 and variance 1 over the training pictures.

    Mean and variance are parameters, so that they are averaged like all other weights. Ioffe & Szegedy 2015, alg. 1.
    """

    def __init__(self, width):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.var = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, h):
        return F.batch_norm(h, self.mean, self.var, training=self.training, momentum=0.01)


def texture(h):
    """Return mean and deviation of each channel over all places, (B, C, H, W) -> (B, 2 C): how, and not what, is drawn.

    Huang & Belongie 2017, section 3.
    """
    var, mean = torch.var_mean(h, dim=(2, 3))
    return torch.cat([mean, (var + 1e-4).sqrt()], dim=1)


class Evaluator(ResNetVisionModel):
    """CLIP's residual tower with four heads. He et al. 2016, section 3.3, with GroupNorm.

    forward(x (B, 3, H, W) in [-1, 1], H and W from 16 to 256) -> EvaluatorOutput.
    """

    def __init__(self, widths=(48, 96, 192, 384), blocks=(1, 1, 1), num_concepts=NUM_CONCEPTS, dropout=0.3):
        super().__init__(widths, blocks)
        width, early = widths[-1], 2 * sum(widths[:TEXTURE])
        self.standardized = FeatureNorm(width)  # what all pictures share would drown what tells them apart
        self.dropout = nn.Dropout(dropout)  # for the concept alone: five pictures each are soon learnt by heart
        self.concept = nn.Linear(width, num_concepts)
        self.color = nn.Linear(width, len(WORDS_ZH))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        hidden = nn.Linear(early, width), nn.SiLU(), nn.Dropout(dropout)
        self.style = nn.Sequential(FeatureNorm(early), *hidden, nn.Linear(width, len(STYLES)))

    def forward(self, x):
        maps = [self.stem(F.pixel_unshuffle(resize(x, SIDE), 2))]  # (B, 48, 32, 32)
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        h = self.standardized(F.silu(self.norm(maps[-1])).mean(dim=(2, 3)))
        style = self.style(torch.cat([texture(early) for early in maps[:TEXTURE]], dim=1))
        return EvaluatorOutput(self.concept(self.dropout(h)), style, self.color(h), self.background(h), h)


@lru_cache(maxsize=1)
def class_names() -> dict[str, tuple[str, ...]]:
    """Return {"concept", "style", "color", "background"} -> the words, in the order of the logits."""
    concepts = sorted(set(load_emoji(64, styles="noto", split="all").column("concept")))
    return {"concept": tuple(concepts), "style": STYLES, "color": tuple(WORDS_ZH), "background": BACKGROUNDS}


def class_numbers(attribute, words) -> torch.Tensor:
    """Return the class numbers (n,) of n words of an attribute; None becomes -100, which cross entropy passes over.

    Raises ValueError for a word that is no class.
    """
    number = {word: i for i, word in enumerate(class_names()[attribute])} | {None: -100}
    unknown = [word for word in words if word not in number]
    if unknown:
        raise ValueError(f"the evaluator knows no {attribute} {unknown[0]!r}")
    return torch.tensor([number[word] for word in words], dtype=torch.long)


def load_evaluator(device=None, folder=None) -> Evaluator:
    """Return the trained evaluator in eval mode, on the device (None: the CPU).

    Raises CheckpointError when its checkpoint is missing or damaged.
    """
    return checkpoints.load("evaluator", Evaluator(), device, folder).requires_grad_(False)
