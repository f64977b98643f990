"""What only the commands ask for: their limits, and the file to write to."""

from __future__ import annotations

from pathlib import Path

from course_utils.errors import InputError

COUNT = (1, 64)  # pictures at a time: more do not fit a screen
MINUTES = (0.0, 10_080.0)  # a week
PROMPTS = (1, 400)  # to be measured on: more take minutes and change little
PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp")


def picture_file(value: str | Path) -> Path:
    """A path to write a picture to, if its folder exists and its ending is known; else InputError."""
    path = Path(value)
    if path.suffix.lower() not in PICTURE_TYPES:
        raise InputError(f"{path.name!r} does not end like a picture: use one of {', '.join(PICTURE_TYPES)}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first, or name another")
    return path
