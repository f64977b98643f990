"""Draw pictures with a shipped checkpoint: what `course draw` and the prompt box of notebook 00 call."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import inputs

if TYPE_CHECKING:  # both take their time, and `course --help` needs neither
    import numpy as np
    import torch

SYSTEMS = {"noise-predictor": "emoji out of pure noise; it takes no prompt (text arrives with notebook 04)"}
BATCH = 16  # pictures at a time: keeps memory small, and costs no speed on a CPU
SIDE = 1024  # pixels, about the side of a grid


def prompt_note(system: str, prompt: str | None) -> str | None:
    """One sentence when the system cannot follow the prompt that was given, else None."""
    if prompt is None or system != "noise-predictor":
        return None
    return ("the noise predictor takes no prompt, so yours is left aside: it draws whatever emoji the noise "
            "suggests. Steering it with words is notebook 04.")


def draw_pictures(system: str = "noise-predictor", prompt: str | None = None, steps: int = 50, seed: int = 0,
                  count: int = 16, guidance: float = 3.0, device: str | None = None, folder: str | Path | None = None,
                  progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Draw `count` pictures with a system's checkpoint: uint8 (count, H, W, 3).

    steps 1..1000 of DDIM; seed 0..2**32-1: picture i of a seed is the same for every count and device (to
    rounding); guidance 0..20 (1: off; only for systems that read a prompt); folder: where the checkpoint lies
    (None: the shipped ones); progress(done, total): called after every step.
    Raises InputError for anything out of range, CheckpointError for a missing or damaged checkpoint.
    """
    inputs.one_of("system", system, SYSTEMS)
    inputs.whole_number("steps", steps, inputs.STEPS)
    inputs.whole_number("seed", seed, inputs.SEED)
    inputs.whole_number("count", count, inputs.COUNT)
    inputs.number("guidance", guidance, inputs.GUIDANCE)
    if prompt is not None:
        inputs.prompt_text(prompt)
    return _from_noise(steps, seed, count, device, folder, progress or (lambda done, total: None))


def _from_noise(steps, seed, count, device, folder, progress) -> np.ndarray:
    """Draw with the noise predictor: noise, then DDIM, in batches that halve when memory runs out."""
    import torch

    from course_utils import checkpoints, devices
    from course_utils.data import to_uint8
    from course_utils.recipes import noise_predictor as recipe

    where = devices.best_device(device)
    model = checkpoints.load("noise-predictor", recipe.model(), device=where, folder=folder)
    xT = start_noise(seed, count, recipe.SIZE).to(where)

    def draw(batch: int) -> torch.Tensor:
        parts = xT.split(batch)
        return torch.cat([_sample(model, part, recipe, steps, progress, i, len(parts)) for i, part in enumerate(parts)])

    return to_uint8(devices.halve_on_oom(draw, min(BATCH, count)))


def start_noise(seed: int, count: int, size: int) -> torch.Tensor:
    """Gaussian noise (count, 3, size, size), drawn picture by picture: picture i does not depend on `count`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(3, size, size, generator=generator) for _ in range(count)])


def _sample(model, xT, recipe, steps, progress, part, parts) -> torch.Tensor:
    """Run DDIM over part number `part` of `parts`, a batch (B, 3, S, S), and return its last state."""
    from course_utils.generator.samplers import ddim

    for state in ddim(model, xT, recipe.SCHEDULE, steps=steps, prediction=recipe.PREDICTION):
        progress(part * steps + state.step, parts * steps)
    return state.xt


def grid(pictures: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay pictures (N, H, W, 3) uint8 out on white, enlarged without smoothing to about 1,024 pixels: (H', W', 3)."""
    import numpy as np

    count, height, width, _ = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top:top + height, left:left + width] = picture
    scale = max(1, SIDE // max(sheet.shape[:2]))
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)
