"""Draw a picture anew from its CLIP vector: what `course vary` calls.

picture ──► image_embed, and the noise that draws it ──► the decoder, with fresh noise on the way ──► variations
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import inputs
from course_utils.app.generate import save_grid

if TYPE_CHECKING:  # it takes its time, and `course --help` needs none
    import numpy as np

COUNT, STEPS, GUIDANCE = 8, 50, 1.0  # inversion takes more steps than drawing, and is exact without guidance only


def vary(args: argparse.Namespace) -> int:
    """Write a picture and its variations to one file, the picture first."""
    path, start = inputs.picture_file(args.out), time.perf_counter()
    pictures = vary_picture(
        args.picture, args.count, args.eta, args.steps, args.guidance, args.seed, args.device, args.folder
    )
    save_grid(pictures, path)
    several = f"{args.count} variation{'s' * (args.count > 1)}"
    print(f"the picture and {several}, seed {args.seed}, in {time.perf_counter() - start:.1f} s: {path}")
    return 0


def vary_picture(
    picture: str | Path,
    count: int = COUNT,
    eta: float = 1.0,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str | None = None,
    folder: str | Path | None = None,
) -> np.ndarray:
    """A picture file as the decoder sees it, and `count` variations of it: uint8 (1 + count, 64, 64, 3).

    eta: 0 to 1, see `DALLE2.vary`; steps 1..1000 and guidance 0..20, None for 50 and 1; folder: where the checkpoints
    lie (None: the shipped ones). Raises InputError for a file that is no usable picture and for what is out of range,
    CheckpointError for a missing or damaged checkpoint. Notebook 08.
    """
    count, eta = errors.integer("count", count, inputs.COUNT), errors.number("eta", eta, (0, 1))
    steps = errors.integer("steps", STEPS if steps is None else steps, errors.STEPS)
    guidance = errors.number("guidance", GUIDANCE if guidance is None else guidance, errors.GUIDANCE)
    seed = errors.integer("seed", seed, errors.SEED)
    import numpy as np
    import torch

    from course_utils.data import to_uint8
    from course_utils.datasets.photos import load_photo
    from course_utils.devices import best_device
    from course_utils.systems.dalle2 import open_dalle2

    given = load_photo(picture)
    system = open_dalle2("none", best_device(device), folder)
    *_, last = system.vary(given, count, eta, steps, guidance, torch.Generator().manual_seed(seed))
    return np.concatenate([given, to_uint8(system.decode(last.xt))])
