"""What the evaluator says of a system's pictures for the fixed prompts: the table of `course evaluate`.

    fixed prompts, two languages ──► pictures ──► evaluator ──► share right of concept, style, colour, background
"""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from course_utils import drawing, inputs
from course_utils.compose import LANGUAGES
from course_utils.data import to_tensor
from course_utils.evaluator import load_evaluator
from course_utils.metrics import alignment, held_out_accuracy
from course_utils.prompts import fixed_prompts, held_out_prompts

COLUMNS = {"concept": "concept", "concept_top5": "top 5", "style": "style", "color": "colour",
           "background": "background"}
NAMES = {"en": "English", "zh": "Chinese"}


def concepts(system: str) -> frozenset[str]:
    """The concepts that a system's training showed: only those can be asked of it."""
    recipe = import_module("course_utils.recipes." + system.replace("-", "_"))
    return frozenset(recipe.emoji().column("concept"))


def evaluate(system: str = "text-pixel", n: int = 100, steps: int | None = None, guidance: float | None = None,
             seed: int = 0, device: str | None = None, folder: str | Path | None = None,
             progress: Callable[[int, int], None] | None = None) -> dict[str, dict[str, float]]:
    """Draw n fixed prompts a language, and the held-out compositions, and let the evaluator judge.

    Returns {row: shares right}: rows for seen and held-out prompts in both languages, and one for real pictures that
    the evaluator has not seen, its own ceiling. The same noise serves both languages.
    """
    chosen, evaluator, rows = drawing.SYSTEMS[system], load_evaluator(), {}
    steps = inputs.whole_number("steps", chosen.steps if steps is None else steps, inputs.STEPS)
    guidance = inputs.number("guidance", chosen.guidance if guidance is None else guidance, inputs.GUIDANCE)
    inputs.whole_number("seed", seed, inputs.SEED)
    known = concepts(system)
    for what in ("seen", "held-out colour"):
        for language in LANGUAGES:
            prompts = (fixed_prompts(language, n, concepts=known) if what == "seen"
                       else [p for p in held_out_prompts(language) if p.concept in known])
            pictures = drawing.draw_prompts(system, [p.text for p in prompts], steps, seed, guidance, None, device,
                                            folder, progress)
            rows[f"{what}, {NAMES[language]}, {len(prompts)}"] = alignment(evaluator, to_tensor(pictures), prompts)
    size = pictures.shape[1]
    rows[f"real pictures, {size} px"] = held_out_accuracy(evaluator, size, styles=("noto", "twemoji", "fluent"))
    return rows


def evaluate_evaluator(n: int = 2000, folder: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Let the evaluator judge n real pictures a row, held out and trained on, at two sizes; as `evaluate`."""
    evaluator = load_evaluator(folder=folder)
    return {f"{name}, {size} px": held_out_accuracy(evaluator, size, n, split=split)
            for name, split in (("held out", "test"), ("trained on", "train")) for size in (64, 32)}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of `evaluate` as text, shares in per cent."""
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>12}" for name in COLUMNS.values())]
    lines += [f"{row:<{width}}" + "".join(f"{shares[key]:>12.0%}" for key in COLUMNS) for row, shares in rows.items()]
    return "\n".join(lines)
