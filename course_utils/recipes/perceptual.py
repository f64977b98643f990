"""perceptual: a small classifier whose inner layers tell the autoencoder how different two pictures look."""

from functools import lru_cache

import torch
import torch.nn.functional as F

from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.perceptual import FeatureNet
from course_utils.evaluation.evaluator import class_numbers
from course_utils.training import Recipe


def model():
    """Return the untrained network: pictures (B, 3, 64, 64) in, logits of 1,015 concepts out."""
    return FeatureNet().to(memory_format=torch.channels_last)  # this layout is faster on CPUs


@lru_cache(maxsize=1)
def composer():
    """Return the source of the training pictures, 64 pixels a side."""
    return Composer(load_emoji(64, FIRST_STYLES), languages=("en",), p_background=0.6, natural=0)


def batch(generator, n):
    """Compose n pictures with the numbers of their concepts."""
    examples = composer().compose(n, seed=int(torch.randint(2**31, (), generator=generator)))
    return {"x": to_tensor(examples.images), "concept": class_numbers("concept", examples.attributes["concept"])}


def loss(network, batch, generator):
    """Return the cross entropy of the concept."""
    return F.cross_entropy(network(batch["x"]), batch["concept"], label_smoothing=0.1)


RECIPE = Recipe(
    name="perceptual",
    summary="a small classifier whose inner layers tell the autoencoder how different two pictures look",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=32,
    lr=2e-3,
    weight_decay=0.05,
    time_share=0.3,  # its features need not be perfect, only see edges, textures and shapes
)
