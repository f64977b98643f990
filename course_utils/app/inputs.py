"""What only the commands ask for: their limits, the file to write to; and what they say when something fails."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from course_utils.errors import CourseError, InputError

COUNT = (1, 64)  # pictures at a time: more do not fit a screen
MINUTES = (0.0, 10_080.0)  # a week
PROMPTS = (1, 400)  # to be measured on: more take minutes and change little
LORA_STRENGTH = (0.0, 2.0)  # 1: as it was trained
PORT = (1024, 65535)
PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp")


def picture_file(value: str | Path) -> Path:
    """A path to write a picture to, if its folder exists and its ending is known; else InputError."""
    path = Path(value)
    if path.suffix.lower() not in PICTURE_TYPES:
        raise InputError(f"{path.name!r} does not end like a picture: use one of {', '.join(PICTURE_TYPES)}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}: make it first, or name another")
    return path


def explain(error: Exception) -> str | None:
    """One sentence for an error that a user can do something about, None for a fault of the program."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EFBIG)
        return "the disk is full: free some space and try again" if full else str(error)
    if isinstance(error, CourseError):
        return str(error)
    devices = sys.modules.get("course_utils.devices")  # imports torch, so it is asked only where it is at work
    if devices and devices.is_out_of_memory(error):
        return "memory ran out, even for the smallest batch: close other programs, or try --device cpu"
    return None
