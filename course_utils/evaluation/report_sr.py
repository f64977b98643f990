"""How well pictures are enlarged from 64 to 256 pixels: bicubic, by regression and by diffusion, on held-out pictures.

real pictures ──► shrunk ──► enlarged in three ways ──► PSNR, perceptual distance, high frequencies, consistency,
      └──────────────────────────── compared with ────┘ Fréchet distance of patches, what the evaluator names
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import FLAT_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Batch, Composer
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.super_resolution import enlarge, from_residual
from course_utils.evaluation.evaluator import Evaluator, load_evaluator
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.metrics import alignment, extract_features, frechet_distance, psnr
from course_utils.evaluation.sharpness import consistency, patches, power_ratio
from course_utils.layers import resize
from course_utils.systems.super_resolution import SR2_SIDE, SR2_STD, SuperResolution, make_sr2, open_sr2, regress

SMALL = 64  # pixels a side of what is enlarged
CHUNK = 8  # pictures of 256 pixels enlarged at a time


@lru_cache(maxsize=2)
def held_out(n: int, seed: int = 5, styles: tuple[str, ...] = FLAT_STYLES) -> Batch:
    """Return n composed pictures of 256 pixels of emoji that no training has shown in these styles."""
    return Composer(load_emoji(SR2_SIDE, styles, split="test"), languages=("en",), p_color=0.1).compose(n, seed)


def judge(
    x: torch.Tensor, real: torch.Tensor, small: torch.Tensor, net: FeatureNet, evaluator: Evaluator
) -> dict[str, float]:
    """Return what can be said of enlarged pictures x (N, 3, H, W): beside the real ones and what was enlarged, small.

    psnr and perceptual: mean distance from the real picture; power: of high frequencies, as a multiple of the real
    ones'; consistency: PSNR of x shrunk again; frechet: distance of patches as large as the evaluator's own pictures,
    x 1000, so that nothing is shrunk before it is judged. Built in notebook 09.
    """
    with torch.inference_mode():
        seen = torch.cat([perceptual_distance(net, a, b) for a, b in zip(x.split(CHUNK), real.split(CHUNK))])
    features = (extract_features(evaluator, patches(pictures)) for pictures in (x, real))
    return {
        "psnr": Mean.of(psnr(x, real)),
        "perceptual": Mean.of(seen),
        "power": power_ratio(x, real),
        "consistency": Mean.of(consistency(x, small)),
        "frechet": 1000 * frechet_distance(*features),
    }


@torch.inference_mode()
def enlarge_all(
    sr: SuperResolution, small: torch.Tensor, progress: Callable[[int, int], None] | None = None, **options
):
    """Return small pictures (N, 3, h, w) enlarged by diffusion, (N, 3, side, side), the i-th from noise number i."""
    noise, done = torch.Generator().manual_seed(0), []
    for part in small.split(CHUNK):
        *_, last = sr.sample(torch.randn(len(part), 3, sr.side, sr.side, generator=noise), part, **options)
        done.append(last.xt.clamp(-1, 1))
        if progress:
            progress(len(done), -(-len(small) // CHUNK))
    return torch.cat(done)


@torch.inference_mode()
def regress_all(small: torch.Tensor, folder: str | Path | None = None) -> torch.Tensor:
    """Return small pictures (N, 3, 64, 64) enlarged in one go by imagen-sr2-regression, (N, 3, 256, 256)."""
    network, parts = checkpoints.load("imagen-sr2-regression", make_sr2(), folder=folder), []
    for part in small.split(CHUNK):
        low, level = enlarge(part, SR2_SIDE), torch.zeros(len(part))
        parts.append(from_residual(regress(network, low, level), low, level, SR2_STD).clamp(-1, 1))
    return torch.cat(parts)


def evaluate_sr2(
    n: int = 64, folder: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Enlarge n held-out pictures in three ways, and judge each. concept: what the evaluator names of it."""
    composed, net, evaluator = held_out(n), checkpoints.load("perceptual", FeatureNet()), load_evaluator()
    real = to_tensor(composed.images)
    small = resize(real, SMALL)
    ways = {"bicubic": enlarge(small, SR2_SIDE).clamp(-1, 1)}
    if "imagen-sr2-regression" in checkpoints.available(folder):
        ways["regression"] = regress_all(small, folder)
    ways["diffusion"] = enlarge_all(open_sr2(folder=folder), small, progress)
    rows = {f"{way}, {n}": judge(x, real, small, net, evaluator) for way, x in ways.items()}
    for x, row in zip([*ways.values()], rows.values()):
        row["concept"] = alignment(evaluator, x, composed.attributes)["concept"]
    return rows
