"""Draw XP7, the subject that fine-tuning teaches: `python data/build/subject.py`, after build.py.

Twelve pictures to teach from, and eight of the same car in other poses and places to score against. The same pinned
requirements give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import car
import pyarrow as pa
from build import SCHEMA, draw, encode, write_table
from PIL import Image
from sums import DATA, write_sums

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from course_utils.data import load_scenes
from course_utils.datasets.compose import PLAIN, SCENES

SIZE = car.SIDE
XP7_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "split", "pose", "background", "caption_en", "caption_zh")),
        SCHEMA.field("image"),
        SCHEMA.field("size"),
    ]
)

# Pose; yaw, slope and pitch in degrees; width, left and lower edge as shares of the picture; background and which
# painting of that scene (nothing for a plain colour).
SHOTS = {
    "train": (
        ("side, facing right", 0, 0, 7, 0.94, 0.03, 0.75, "white", 0),
        ("side, facing left", 180, 0, 8, 0.90, 0.07, 0.88, "blue sky and grass", 3),
        ("three-quarter front, facing right", -33, 0, 9, 0.90, 0.04, 0.90, "blue sky and grass", 17),
        ("three-quarter front, facing left", -144, 0, 10, 0.94, 0.03, 0.93, "beach", 5),
        ("three-quarter rear, facing right", 32, 0, 8, 0.86, 0.10, 0.87, "snow", 8),
        ("three-quarter rear, facing left", 148, 0, 9, 0.92, 0.03, 0.80, "light blue", 0),
        ("side, facing right", 5, 0, 8, 0.84, 0.13, 0.88, "sunset", 2),
        ("uphill, facing right", -12, 7, 8, 0.88, 0.08, 0.88, "night sky", 11),
        ("downhill, facing left", 188, -6, 8, 0.90, 0.05, 0.76, "light yellow", 0),
        ("three-quarter front, facing left", -154, 0, 8, 0.95, 0.02, 0.79, "white", 0),
        ("side, facing left", 174, 0, 9, 0.82, 0.06, 0.80, "light pink", 0),
        ("three-quarter front, facing right", -40, 0, 10, 0.84, 0.12, 0.91, "sea", 4),
    ),
    "unseen": (
        ("side, facing right", -7, 0, 9, 0.92, 0.04, 0.90, "blue sky and grass", 24),
        ("three-quarter front, facing left", -147, 0, 9, 0.86, 0.11, 0.88, "blue sky and grass", 31),
        ("three-quarter rear, facing right", 36, 0, 9, 0.90, 0.04, 0.92, "blue sky and grass", 36),
        ("uphill, facing left", 170, 6, 8, 0.90, 0.04, 0.88, "snow", 21),
        ("three-quarter front, facing right", -37, 0, 9, 0.94, 0.03, 0.92, "night sky", 28),
        ("side, facing left", 184, 0, 8, 0.93, 0.05, 0.90, "beach", 22),
        ("three-quarter rear, facing left", 145, 0, 8, 0.84, 0.13, 0.79, "white", 0),
        ("downhill, facing right", -14, -6, 9, 0.86, 0.06, 0.78, "light green", 0),
    ),
}


def picture(
    yaw: float, slope: float, pitch: float, width: float, left: float, bottom: float, background: str, painting: int
) -> Image.Image:
    """The car on its background, RGB."""
    canvas = (
        Image.new("RGB", (SIZE, SIZE), PLAIN[background][0])
        if background in PLAIN
        else Image.fromarray(load_scenes(SIZE)[background][painting])
    )
    subject = draw(car.svg(car.Eye(yaw, slope, pitch), width, left, bottom), SIZE)
    canvas.paste(subject, (0, 0), subject)
    return canvas


def captions(background: str) -> dict[str, str]:
    """What the picture shows, in both languages; the background is always named."""
    plain = background in PLAIN
    chinese = PLAIN[background][1] + "背景" if plain else SCENES[background]
    return {"caption_en": f"XP7 car, {background}" + " background" * plain, "caption_zh": f"XP7汽车，{chinese}"}


def rows() -> list[dict]:
    """One dict a picture, as in XP7_SCHEMA."""
    return [
        {
            "id": f"xp7-{split}-{i:02}",
            "split": split,
            "pose": pose,
            "background": shot[6],
            **captions(shot[6]),
            "image": {"bytes": encode(picture(*shot)), "path": f"xp7-{split}-{i:02}.webp"},
            "size": SIZE,
        }
        for split, shots in SHOTS.items()
        for i, (pose, *shot) in enumerate(shots, 1)
    ]


if __name__ == "__main__":
    write_table(DATA / "xp7.parquet", rows(), XP7_SCHEMA)
    write_sums()
