"""What only the commands ask for, limits and a file to write to, and what they tell: notes, progress, why it failed."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

from course_utils.errors import CourseError, InputError, printable

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


def say(sentence: str) -> None:
    """Tell something beside the result."""
    print(f"course: note: {printable(sentence)}", file=sys.stderr, flush=True)


def show_progress() -> Callable[[int, int], None]:
    """A progress(done, total) that draws a bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    bar = tqdm(disable=not sys.stderr.isatty(), unit="step", leave=False)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return progress


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
