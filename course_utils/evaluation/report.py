"""What the evaluator says of a system's pictures for the fixed prompts: the table of `course evaluate`.

fixed prompts, two languages ──► pictures ──► evaluator ──► share right of concept, style, colour, background
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import LANGUAGES, Composer
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.decoder.vae import VAE
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment, held_out_accuracy, psnr
from course_utils.evaluation.prompts import fixed_prompts, held_out_prompts
from course_utils.interop.lora_files import lora_adapter
from course_utils.recipes import stable_diffusion, style_3d, text_pixel
from course_utils.systems.registry import PROMPTED, SYSTEMS, open_system

COLUMNS = {
    "concept": "concept",
    "concept_top5": "top 5",
    "style": "style",
    "color": "colour",
    "background": "background",
    "psnr": "PSNR",
    "perceptual": "perceptual",
    "concept_real": "before it",
    "subject": "subject",
    "prompt": "prompt",
    "PRES": "PRES",
    "DIV": "DIV",
}
UNITS = {
    "psnr": "{:.1f} dB",
    "perceptual": "{:.3f}",  # everything else is a share
    "subject": "{:.2f}",
    "PRES": "{:.2f}",
    "DIV": "{:.2f}",
}
NAMES = {"en": "English", "zh": "Chinese"}
TRAINING_PICTURES = {
    "text-pixel": text_pixel.emoji,
    "stable-diffusion": stable_diffusion.emoji,
    "style-3d": style_3d.emoji,
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
            "psnr": float(psnr(x, y).mean()),
            "perceptual": float(perceptual.mean()),
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
    systems = {name: open_system("stable-diffusion", device, adapt=adapt) for name, adapt in ways.items()}
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
    """The rows of an evaluation as text, shares in per cent."""
    width, columns = max(map(len, rows)), [key for key in COLUMNS if key in next(iter(rows.values()))]
    lines = [" " * width + "".join(f"{COLUMNS[key]:>12}" for key in columns)]
    for row, values in rows.items():
        shown = [UNITS.get(key, "{:.0%}").format(values[key]) for key in columns]
        lines.append(f"{row:<{width}}" + "".join(f"{value:>12}" for value in shown))
    return "\n".join(lines)
