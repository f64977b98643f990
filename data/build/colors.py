"""Which colour word fits a picture as it is, and into which colours it can be repainted so that the word is right."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from course_utils.datasets.compose import COLORS, NAMES_COLOR, _hsv, _peak, dominant_color, recolor, resized

SIZES = (64, 32, 16)  # the word must be right at each of them, and for the smallest subject a Composer draws
COHERENT = 0.65  # share of all colour that must lie near the dominant hue; a frog half green, half yellow fails


def resize(rgba: np.ndarray, side: int) -> np.ndarray:
    """uint8 (S, S, 4) to (side, side, 4), as a Composer does it."""
    return np.asarray(resized(rgba, side))


def is_always(word: str | None, pictures: Iterable[np.ndarray]) -> bool:
    """Whether `word` is the colour of every picture, drawn whole and at three quarters of its size."""
    return all(
        dominant_color(small[..., :3], small[..., 3]) == word
        for rgba in pictures
        for small in (rgba, resize(rgba, len(rgba) * 3 // 4))
    )


def is_coherent(rgba: np.ndarray) -> bool:
    """Whether one hue makes up most of the colour of a picture."""
    hue, sat, value = _hsv(rgba[rgba[..., 3] > 0])
    chroma = sat * value
    away = (hue - _peak(hue, chroma) + 3) % 6 - 3
    return chroma[np.abs(away) < 5 / 6].sum() >= COHERENT * max(chroma.sum(), 1e-6)


def find_colors(rgba: np.ndarray, name_en: str, name_zh: str) -> tuple[str | None, list[str]]:
    """(natural colour word or None, words it can be repainted in) of a picture, uint8 (64, 64, 4)."""
    scaled = [rgba if size == len(rgba) else resize(rgba, size) for size in SIZES]
    natural = dominant_color(rgba[..., :3], rgba[..., 3])
    natural = natural if is_always(natural, scaled) else None
    if NAMES_COLOR.search(name_en) or NAMES_COLOR.search(name_zh) or not is_coherent(rgba):
        return natural, []  # a blue "red apple" would contradict its own name
    return natural, [color for color in COLORS if is_always(color, (recolor(picture, color) for picture in scaled))]
