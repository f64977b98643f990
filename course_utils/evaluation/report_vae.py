"""What an autoencoder keeps of pictures, style by style, and what it makes of latents that are a little wrong.

pictures ──► encoder ──► z ──► decoder ──► pictures          how far off, style by style
                         z + noise ──► decoder ──► pictures  a generator's latents are never quite right
"""

from __future__ import annotations

from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Batch, Composer
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.vae import VAE
from course_utils.evaluation.evaluator import Evaluator, load_evaluator
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.metrics import alignment, psnr

NOISE = 0.1  # of the latents' standard deviation: about what 20 steps of a U-Net leave


@torch.inference_mode()
def repainted(vae: VAE, x: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """Return pictures (N, 3, H, W) in [-1, 1] as they come back from latents with noise, in units of their std."""
    z = torch.cat([vae.encode(part).mean for part in x.split(32)])
    z = z + noise * z.std() * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([vae.decode(part) for part in z.split(32)]).clamp(-1, 1)


@torch.inference_mode()
def compare(vae: VAE, net: FeatureNet, evaluator: Evaluator, real: Batch, noise: float = 0.0) -> dict[str, float]:
    """Compare composed pictures with what the autoencoder makes of them: decibels, perceptual distance, what is named.

    fine: the energy of the finest details, over that of the real pictures: above 1 is mottling, below 1 blur.
    """
    x = to_tensor(real.images)
    y = repainted(vae, x, noise)
    perceptual = torch.cat([perceptual_distance(net, a, b) for a, b in zip(x.split(64), y.split(64))])
    named = (alignment(evaluator, pictures, {"concept": real.attributes["concept"]})["concept"] for pictures in (y, x))
    return {
        "psnr": Mean.of(psnr(x, y)),
        "perceptual": Mean.of(perceptual),
        "fine": Mean.of(fine_energy(y) / fine_energy(x).clamp(min=1e-6)),
        **dict(zip(("concept", "concept_real"), named)),
    }


def fine_energy(x: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of pictures (N, C, H, W) from their 2 x 2 means: (N,)."""
    coarse = torch.nn.functional.avg_pool2d(x, 2)
    return (x - coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)).square().mean(dim=(1, 2, 3))


def composed(styles: str | tuple[str, ...], split: str, n: int) -> Batch:
    """Return n composed pictures of 64 pixels of some styles, always the same."""
    return Composer(load_emoji(64, styles, split=split), languages=("en",)).compose(n, seed=5)


def open_judged(name: str, folder: str | Path | None) -> tuple[VAE, FeatureNet, Evaluator]:
    """Return an autoencoder, and the two networks that judge it."""
    vae = checkpoints.load(name, VAE(), folder=folder)
    return vae, checkpoints.load("perceptual", FeatureNet()), load_evaluator()


def evaluate_vae(n: int = 500, folder: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Judge n pictures a row of the autoencoder of three styles: held out, and trained on; as `compare` does."""
    judged, splits = open_judged("vae", folder), {"held out": "test", "trained on": "train"}
    rows = {f"{name}, {n}": compare(*judged, composed(FIRST_STYLES, split, n)) for name, split in splits.items()}
    # its card was written without the finest details
    return {name: {key: value for key, value in row.items() if key != "fine"} for name, row in rows.items()}


def evaluate_vae_eight(
    n: int = 500, folder: str | Path | None = None, name: str = "vae-eight"
) -> dict[str, dict[str, float]]:
    """Judge n pictures a row: held out, trained on, each of eight styles (n / 4), and with noise on the latents.

    name: "vae", for the same table of the autoencoder of three styles.
    """
    judged = open_judged(name, folder)
    held_out = composed(STYLES, "test", n)
    rows = {
        f"held out, {n}": compare(*judged, held_out),
        f"held out, three styles, {n}": compare(*judged, composed(FIRST_STYLES, "test", n)),
        f"held out, noise {NOISE}, {n}": compare(*judged, held_out, NOISE),
        f"trained on, {n}": compare(*judged, composed(STYLES, "train", n)),
    }
    few = max(2, n // 4)
    return rows | {f"trained on, {style}, {few}": compare(*judged, composed(style, "train", few)) for style in STYLES}
