"""Draw 300 times in one process, and see whether the memory grows.

    python tools/soak.py                300 drawings after 40 that warm up; about ten minutes on two cores
    python tools/soak.py --drawings 30  a short look

Prompts, systems, LoRAs and how many pictures are drawn at a time change with every drawing. Leaves with status 1 when
the last memory is more than 5 % above the first.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import statistics
import sys
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 40  # drawings, in which every network, word and buffer is met once
WINDOW = 20  # drawings whose median memory is compared: a single one depends on what was freed last
ALLOWED = 0.05
PROMPTS = ("pink butterfly", "a red car in the snow", "蓝色的猫，雪地", "XP7 car", "fox, night sky", "panda " * 20)
WAYS = (  # system, LoRA
    ("stable-diffusion", None),
    ("stable-diffusion", "xp7"),
    ("text-pixel", None),
    ("stable-diffusion", "style-3d"),
    ("noise-predictor", None),
    ("stable-diffusion", ["xp7", "style-3d"]),
)


def memory() -> float:
    """Megabytes this process holds, once what is free was given back to the system."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6


def drawings(count: int):
    """Draw `count` times, each differently, and yield the megabytes after each."""
    from course_utils.app.generate import draw_pictures

    lots = random.Random(0)
    for number, (system, lora) in islice(enumerate(cycle(WAYS)), count):
        prompt = None if system == "noise-predictor" else lots.choice(PROMPTS)
        draw_pictures(
            system,
            prompt,
            steps=lots.choice((1, 2, 3, 5)),
            seed=number,
            count=lots.choice((1, 2, 3, 5, 8, 17)),
            negative=lots.choice((None, "dog")) if prompt else None,
            device="cpu",
            lora=lora,
        )
        yield memory()


def main(argv: list[str] | None = None) -> int:
    """Print the memory every WINDOW drawings, and say whether it grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=300, help="after the warm-up (default: 300)")
    count = parser.parse_args(argv).drawings
    sys.path.insert(0, str(ROOT))
    held = []
    for number, megabytes in enumerate(drawings(WARM_UP + count), 1):
        held.append(megabytes)
        if number % WINDOW == 0:
            print(f"{number:4} drawings: {statistics.median(held[-WINDOW:]):.1f} MB", flush=True)
    first, last = (statistics.median(part) for part in (held[WARM_UP:][:WINDOW], held[-WINDOW:]))
    growth = last / first - 1
    print(f"{count} drawings after {WARM_UP}: from {first:.1f} to {last:.1f} MB, {growth:+.1%} ({ALLOWED:.0%} allowed)")
    return int(growth > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
