"""Paint the six simple scenes that subjects stand in: gradients and a few shapes, each time a little different."""

from __future__ import annotations

import numpy as np

VARIANTS = 40  # paintings of each scene: too many to learn by heart

# Colours of the sky from top to horizon, of the ground from horizon to bottom; the height of the horizon
# (0 top, 1 bottom); and what else is there. "glow" lights up the middle, so that dark subjects show.
SCENES = {
    "blue sky and grass": ((92, 168, 242), (204, 232, 252), (150, 208, 96), (86, 158, 62), 0.68, {"clouds": 3}),
    "night sky": (
        (34, 38, 96),
        (108, 104, 176),
        (62, 66, 122),
        (48, 50, 100),
        0.88,
        {"dots": 22, "sun": (255, 246, 208), "glow": 70},
    ),
    "beach": (
        (120, 196, 246),
        (214, 240, 252),
        (246, 224, 174),
        (226, 194, 138),
        0.66,
        {"clouds": 2, "sea": (72, 176, 206)},
    ),
    "snow": ((140, 182, 222), (206, 224, 240), (252, 253, 255), (226, 236, 247), 0.66, {"dots": 26}),
    "sea": ((140, 206, 250), (226, 244, 254), (74, 166, 212), (24, 98, 164), 0.52, {"clouds": 2, "waves": 1}),
    "sunset": (
        (112, 84, 156),
        (255, 176, 104),
        (150, 96, 120),
        (98, 62, 100),
        0.74,
        {"sun": (255, 226, 120), "glow": 40},
    ),
}


def paint(scene: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """One painting of a scene, uint8 (size, size, 3)."""
    _, _, near, far, horizon, extra = SCENES[scene]
    y, x = (np.mgrid[:size, :size] + 0.5) / size  # pixel centres in [0, 1]
    horizon += rng.uniform(-0.05, 0.05)
    canvas = _sky(scene, x, y, horizon, rng)
    if "sea" in extra:
        canvas = _over(canvas, (y - horizon + 0.2) * size, extra["sea"])
    ground = _over(np.full_like(canvas, near), (y - horizon) / (1 - horizon), far)
    bumps = 0.02 * np.sin(6.3 * (x * rng.uniform(0.7, 1.5) + rng.uniform())) * (scene != "sea")
    canvas = _over(canvas, (y - horizon - bumps) * size, ground)
    if "waves" in extra:
        ripple = np.sin(40 * np.maximum(y - horizon, 0) ** 0.8 + 1.2 * np.sin(9 * x + 6.3 * rng.uniform()))
        canvas = _over(canvas, (ripple - 0.75) * 4 * (y > horizon + 0.03), (190, 226, 244))
    for u, v in rng.uniform(0, 1, (extra.get("dots", 0), 2)):
        canvas = _over(canvas, (0.014 - np.hypot(x - u, y - v)) * size, (255, 255, 250))
    return (canvas + 0.5).astype(np.uint8)


def _sky(scene: str, x: np.ndarray, y: np.ndarray, horizon: float, rng: np.random.Generator) -> np.ndarray:
    """The sky with glow, sun or moon, and clouds: float (S, S, 3) in 0..255."""
    top, low, _, _, _, extra = SCENES[scene]
    size = len(x)
    canvas = _over(np.full((size, size, 3), top, dtype=float), y / horizon, low)
    canvas += extra.get("glow", 0) * np.exp(-6 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]
    if "sun" in extra:
        height = rng.uniform(0.08, 0.2) if scene == "night sky" else horizon - 0.06
        canvas = _over(canvas, (0.1 - np.hypot(x - rng.uniform(0.1, 0.9), y - height)) * size, extra["sun"])
    for _ in range(extra.get("clouds", 0)):
        u, v = rng.uniform(0, 1), rng.uniform(0.05, 0.3)
        puffs = [
            np.hypot((x - u - k * 0.07) / 1.3, y - v - abs(k) * 0.015) - 0.065 + abs(k) * 0.015 for k in (-1, 0, 1)
        ]
        canvas = _over(canvas, -np.min(puffs, axis=0) * size * 0.7, (250, 252, 255))
    return np.minimum(canvas, 255)


def _over(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray | tuple) -> np.ndarray:
    """Lay a colour over the canvas where mask (clipped to 0..1) says so."""
    return canvas + np.clip(mask, 0, 1)[..., None] * (np.asarray(color, dtype=float) - canvas)
