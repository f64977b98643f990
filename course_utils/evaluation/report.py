"""What the evaluator says of a system's pictures for the fixed prompts: the table of `course evaluate`.

fixed prompts, two languages ──► pictures ──► evaluator ──► share right of concept, style, colour, background
"""

from __future__ import annotations

from collections.abc import Callable
from math import isnan, nan
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.vae import VAE
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.intervals import Estimate, Mean, Share
from course_utils.evaluation.metrics import alignment, held_out_accuracy, psnr
from course_utils.evaluation.prompts import fixed_prompts, held_out_prompts
from course_utils.interop.lora_files import lora_adapter
from course_utils.recipes import (
    imagen_base,
    stable_diffusion,
    stable_diffusion_clip,
    style_3d,
    text_pixel,
    unclip_decoder,
)
from course_utils.systems.registry import PROMPTED, SYSTEMS, open_system

COLUMNS = {
    "concept": "concept",
    "concept_top5": "top 5",
    "R@1": "R@1",
    "R@5": "R@5",
    "style": "style",
    "color": "colour",
    "background": "background",
    "psnr": "PSNR",
    "perceptual": "perceptual",
    "power": "high freq.",
    "consistency": "consistency",
    "concept_real": "before it",
    "subject": "subject",
    "prompt": "prompt",
    "PRES": "PRES",
    "DIV": "DIV",
    "fine": "fine details",
    "unseen": "nearer unseen",
    "variety": "variety",
    "cos_true": "cos to true",
    "cos_text": "cos to text",
    "frechet": "Fréchet x 1000",
    "diversity": "diversity",
    "nearest": "nearest",
    "seconds": "s a caption",
}
UNITS = {  # decimals and unit of what is a mean; everything else is a share
    "psnr": (1, " dB"),
    "perceptual": (3, ""),
    "power": (2, " x"),
    "consistency": (1, " dB"),
    "subject": (2, ""),
    "PRES": (2, ""),
    "DIV": (2, ""),
    "fine": (2, " x"),
    "variety": (2, ""),
    "cos_true": (3, ""),
    "cos_text": (3, ""),
    "frechet": (1, ""),
    "diversity": (2, ""),
    "seconds": (3, ""),
}
INTERVAL = "_interval"  # a card has {"concept": 0.95, "concept_interval": [0.89, 0.98]}
NAMES = {"en": "English", "zh": "Chinese"}
TRAINING_PICTURES = {
    "text-pixel": text_pixel.emoji,
    "stable-diffusion": stable_diffusion.emoji,
    "stable-diffusion-clip": stable_diffusion_clip.emoji,
    "style-3d": style_3d.emoji,
    "dalle2": unclip_decoder.emoji,
    "imagen": imagen_base.emoji,
}


def concepts(system: str) -> frozenset[str]:
    """The concepts that a system's training showed: only those can be asked of it."""
    return frozenset(TRAINING_PICTURES[system]().column("concept"))


def evaluate(
    system: str = PROMPTED,
    n: int = 100,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Draw n fixed prompts a language, and the held-out compositions, and let the evaluator judge.

    Returns {row: shares right}: rows for seen and held-out prompts in both languages, and one for real pictures that
    the evaluator has not seen, its own ceiling. The same noise serves both languages.
    """
    steps, guidance, seed = SYSTEMS[system].options(steps, guidance, seed)
    opened, evaluator, rows, known = open_system(system, device, folder), load_evaluator(), {}, concepts(system)
    for what in ("seen", "held-out colour"):
        for language in LANGUAGES:
            prompts = (
                fixed_prompts(language, n, concepts=known, styles=FIRST_STYLES)
                if what == "seen"
                else [p for p in held_out_prompts(language) if p.concept in known]
            )
            pictures = opened.draw([p.text for p in prompts], seed, steps, guidance, progress=progress)
            rows[f"{what}, {NAMES[language]}, {len(prompts)}"] = alignment(evaluator, to_tensor(pictures), prompts)
    size = pictures.shape[1]
    rows[f"real pictures, {size} px"] = held_out_accuracy(evaluator, size, styles=("noto", "twemoji", "fluent"))
    return rows


def evaluate_evaluator(n: int = 2000, folder: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Let the evaluator judge n real pictures a row, held out and trained on, at two sizes; as `evaluate`."""
    evaluator = load_evaluator(folder=folder)
    return {
        f"{name}, {size} px": held_out_accuracy(evaluator, size, n, split=split)
        for name, split in (("held out", "test"), ("trained on", "train"))
        for size in (64, 32)
    }


def evaluate_vae(n: int = 500, folder: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Compare n pictures a row with what the autoencoder makes of them: held-out ones, and ones it was trained on.

    psnr and perceptual: the mean PSNR in decibels and perceptual distance; concept: the share that the evaluator names
    after the autoencoder, concept_real: before it.
    """
    vae, net = checkpoints.load("vae", VAE(), folder=folder), checkpoints.load("perceptual", FeatureNet())
    evaluator, rows = load_evaluator(), {}
    for name, split in (("held out", "test"), ("trained on", "train")):
        real = Composer(load_emoji(64, FIRST_STYLES, split=split), languages=("en",)).compose(n, seed=5)
        x = to_tensor(real.images)
        with torch.inference_mode():
            y = torch.cat([vae.decode(vae.encode(part).mean) for part in x.split(32)]).clamp(-1, 1)
            perceptual = torch.cat([perceptual_distance(net, a, b) for a, b in zip(x.split(64), y.split(64))])
        rows[f"{name}, {n}"] = {
            "psnr": Mean.of(psnr(x, y)),
            "perceptual": Mean.of(perceptual),
            **{
                key: alignment(evaluator, pictures, real.attributes)["concept"]
                for key, pictures in (("concept", y), ("concept_real", x))
            },
        }
    return rows


def evaluate_style(
    n: int = 100,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Draw n fixed prompts a language that call the 3D style, with its LoRA and without, from the same noise."""
    steps, guidance, seed = SYSTEMS["stable-diffusion"].options(steps, guidance, seed)
    path = Path(folder or checkpoints.CHECKPOINT_DIR) / "style-3d.safetensors"
    ways = {"without": None, "with": lora_adapter(path)}
    known = {"loras": ("style-3d",)}  # what calls the style is asked of both on purpose
    systems = {name: open_system("stable-diffusion", device, adapt=adapt, **known) for name, adapt in ways.items()}
    evaluator, rows = load_evaluator(), {}
    for language in LANGUAGES:
        prompts = fixed_prompts(language, n, concepts=concepts("style-3d"), styles=FIRST_STYLES)
        texts = [style_3d.replace_style(p.text, language) for p in prompts]
        targets = [p._replace(style="3d") for p in prompts]
        for name, system in systems.items():
            pictures = system.draw(texts, seed, steps, guidance, progress=progress)
            rows[f"{name} the LoRA, {NAMES[language]}, {n}"] = alignment(evaluator, to_tensor(pictures), targets)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of an evaluation, or of a card, as text: shares in per cent, and intervals where they are known."""
    cells = {row: figures(values) for row, values in rows.items()}
    keys = [key for key in COLUMNS if any(key in values for values in cells.values())]
    lines = {"": [COLUMNS[key] for key in keys]}
    lines |= {row: [values.get(key, "") for key in keys] for row, values in cells.items()}
    width, column = max(map(len, rows)), 2 + max(len(cell) for line in lines.values() for cell in line)
    return "\n".join(f"{row:<{width}}" + "".join(f"{cell:>{column}}" for cell in line) for row, line in lines.items())


def figures(row: dict[str, float]) -> dict[str, str]:
    """Each figure of a row of an evaluation, or of a card, as text: "88 % [83, 92]"."""
    return {key: value.text(*UNITS.get(key, ())) for key, value in from_card(row).items()}


def for_card(row: dict[str, float]) -> dict[str, float | list[float]]:
    """A row of an evaluation as a card keeps it: each figure, and [low, high] beside it where it has an interval.

    {"concept": 0.95, "concept_interval": [0.89, 0.98]}, to three decimals; what nobody asked for, nan, is left out.
    """
    kept = {}
    for key, value in row.items():
        if not isnan(value):
            kept[key] = round(float(value), 3)
        if not isnan(getattr(value, "low", nan)):
            kept[key + INTERVAL] = [round(value.low, 3), round(value.high, 3)]
    return kept


def from_card(row: dict[str, float | list[float]]) -> dict[str, Estimate]:
    """A row of a card as estimates that know their intervals; a figure of an older card, without one, stands alone.

    Estimates stay as they are.
    """
    estimates = {}
    for key, value in row.items():
        ends = row.get(key + INTERVAL)
        if isinstance(value, Estimate):
            estimates[key] = value
        elif not isinstance(value, list):
            kind = Mean if key in UNITS else Share
            estimates[key] = kind(value, *(ends if isinstance(ends, list) else ()))
    return estimates
