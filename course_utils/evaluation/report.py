"""What the evaluator says of a system's pictures for the fixed prompts: the table of `course evaluate`.

fixed prompts, two languages ──► pictures ──► evaluator ──► share right of concept, style, colour, background
"""

from __future__ import annotations

from collections.abc import Callable
from math import isnan, nan
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, to_tensor
from course_utils.datasets.compose import LANGUAGES
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.intervals import Estimate, Mean, Share
from course_utils.evaluation.metrics import alignment, held_out_accuracy
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
    "parameters": "M parameters",
    "calls": "calls",
    "gflop_call": "GFLOP a call",
    "gflop": "GFLOP a picture",
    "seconds_picture": "s a picture",
    "peak": "MB",
    "clip": "CLIP score",
    "fid": "Fréchet",
    "kid": "kernel",
    "distance": "to nearest",
    "n": "prompts",
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
    "parameters": (2, ""),
    "calls": (0, ""),
    "gflop_call": (2, ""),
    "gflop": (2, ""),
    "seconds_picture": (3, ""),
    "peak": (1, ""),
    "clip": (2, ""),
    "fid": (1, ""),
    "kid": (2, ""),
    "distance": (2, " x"),
    "n": (0, ""),
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


def drawing(
    system: str,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **opening,
) -> Callable[[list[str]], torch.Tensor]:
    """Open a system as draw(prompts) -> pictures (N, 3, H, W) in [-1, 1], which always begins with the same noise.

    steps, guidance: None for the system's own; opening: further arguments of `open_system`. Raises InputError for what
    is out of range, CheckpointError for a missing or damaged checkpoint.
    """
    steps, guidance, seed = SYSTEMS[system].options(steps, guidance, seed)
    opened = open_system(system, device, folder, **opening)
    return lambda prompts: to_tensor(opened.draw(prompts, seed, steps, guidance, progress=progress))


def evaluate(system: str = PROMPTED, n: int = 100, **options) -> dict[str, dict[str, float]]:
    """Draw n fixed prompts a language, and the held-out compositions, and let the evaluator judge.

    options: those of `drawing`. Returns {row: shares right}: rows for seen and held-out prompts in both languages, and
    one for real pictures that the evaluator has not seen, its own ceiling. The same noise serves both languages.
    """
    draw, evaluator, rows, known = drawing(system, **options), load_evaluator(), {}, concepts(system)
    for what in ("seen", "held-out colour"):
        for language in LANGUAGES:
            prompts = (
                fixed_prompts(language, n, concepts=known, styles=FIRST_STYLES)
                if what == "seen"
                else [p for p in held_out_prompts(language) if p.concept in known]
            )
            x = draw([p.text for p in prompts])
            rows[f"{what}, {NAMES[language]}, {len(prompts)}"] = alignment(evaluator, x, prompts)
    size = x.shape[-1]
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


def evaluate_style(n: int = 100, folder: str | Path | None = None, **options) -> dict[str, dict[str, float]]:
    """Draw n fixed prompts a language that call the 3D style, with its LoRA and without, from the same noise.

    folder: where the LoRA lies (None: the shipped one); options: those of `drawing`.
    """
    path = Path(folder or checkpoints.CHECKPOINT_DIR) / "style-3d.safetensors"
    ways = {"without": None, "with": lora_adapter(path)}
    known = {"loras": ("style-3d",)}  # what calls the style is asked of both on purpose
    draws = {name: drawing("stable-diffusion", adapt=adapt, **known, **options) for name, adapt in ways.items()}
    evaluator, rows = load_evaluator(), {}
    for language in LANGUAGES:
        prompts = fixed_prompts(language, n, concepts=concepts("style-3d"), styles=FIRST_STYLES)
        texts = [style_3d.replace_style(p.text, language) for p in prompts]
        targets = [p._replace(style="3d") for p in prompts]
        for name, draw in draws.items():
            rows[f"{name} the LoRA, {NAMES[language]}, {n}"] = alignment(evaluator, draw(texts), targets)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of an evaluation, or of a card, as text: shares in per cent, and intervals where they are known."""
    cells = {row: figures(values) for row, values in rows.items()}
    keys = [key for key in COLUMNS if any(key in values for values in cells.values())]
    lines = {"": [COLUMNS[key] for key in keys]}
    lines |= {row: [values.get(key, "") for key in keys] for row, values in cells.items()}
    width, columns = max(map(len, rows)), [2 + max(map(len, column)) for column in zip(*lines.values())]
    return "\n".join(
        f"{row:<{width}}" + "".join(f"{cell:>{column}}" for cell, column in zip(line, columns))
        for row, line in lines.items()
    )


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
