"""The subject that fine-tuning teaches: XP7, a car of our own design that no generator has seen.

Twelve pictures to teach from, eight others of the same car to score against: `load_xp7("train")`, `load_xp7("unseen")`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from course_utils.data import DATA_DIR, SIZES, decode, one_of, read_table

SPLITS = ("train", "unseen", "all")


@dataclass(frozen=True)
class Subject:
    """Pictures of one thing: `pictures` is uint8 (N, S, S, 3), `meta` a tuple of N dicts.

    Keys of a dict: id, split, pose, background (a word of `compose.BACKGROUNDS`), caption_en, caption_zh.
    Built in notebook 10.
    """

    pictures: np.ndarray
    meta: tuple[dict, ...]

    def __len__(self) -> int:
        return len(self.meta)

    def captions(self, language: str = "en") -> list[str]:
        """What the pictures show, "XP7 car, blue sky and grass", in "en" or "zh"; DataError for another language."""
        one_of("language", (language,), ("en", "zh"))
        return [entry[f"caption_{language}"] for entry in self.meta]


def load_xp7(split: str = "train", size: int = 64) -> Subject:
    """The pictures of XP7 at size × size, each on a background that its captions name.

    split: "train" (12 to teach from), "unseen" (8 others to score against) or "all". size: 16, 24, 32, 48, 64, 128
    or 256. Raises DataError for an unknown split or size, and for a missing or altered file.
    Built in notebook 10.
    """
    one_of("split", (split,), SPLITS)
    one_of("size", (size,), SIZES)
    table, files = read_table(DATA_DIR / "xp7.parquet", None if split == "all" else ("split", "=", split))
    pictures = np.stack([decode(file, size)[..., :3] for file in files])
    return Subject(pictures, tuple(table.drop_columns(["image", "size"]).to_pylist()))
