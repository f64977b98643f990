"""Draw from a picture that is there: all of it anew as far as is asked, or only the part that a mask marks.

picture ──► latent, noised as far as `strength` says ──► img2img ──┐
                                                                   ├──► pictures
picture and mask ──► noise, beside what is to stay ────► inpaint ──┘
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import inputs
from course_utils.systems.registry import PROMPTED, SYSTEMS

if TYPE_CHECKING:  # they take their time, and `course --help` needs none
    import numpy as np
    import torch

    from course_utils.systems.stable_diffusion import StableDiffusion

INPAINTING = {"stable-diffusion": "inpaint", "stable-diffusion-clip": "inpaint-clip"}  # and the U-Net that fills holes
STRENGTH = (0.0, 1.0)


def redraw(
    picture: np.ndarray,
    prompt: str,
    mask: np.ndarray | None = None,
    strength: float = 0.8,
    system: str = PROMPTED,
    steps: int | None = None,
    seed: int = 0,
    count: int = 1,
    guidance: float | None = None,
    negative: str | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    lora: str | Path | list | None = None,
    progress: Callable[[int, int], None] | None = None,
    lora_strength: float = 1.0,
) -> np.ndarray:
    """Draw `count` pictures from one, uint8 (64, 64, 3), with its mask or without: uint8 (count, 64, 64, 3).

    mask: (64, 64), true where to draw anew; the rest stays as it is, to the pixel. None: all of the picture changes, as
    far as `strength` says, above 0 and at most 1, which forgets it. system: one of INPAINTING; with a LoRA, or without
    the U-Net for inpainting, the ordinary U-Net is corrected after every step. The rest is as in `draw_pictures`.
    Raises InputError for anything out of range, CheckpointError for a missing or damaged checkpoint.
    """
    name = errors.one_of("system that changes a picture", system, INPAINTING)
    steps, guidance, seed = SYSTEMS[name].options(steps, guidance, seed)
    count = errors.integer("count", count, inputs.COUNT)
    strength = errors.number("strength", strength, STRENGTH, above=True)
    prompt, negative = (text if text is None else errors.prompt_text(text) for text in (prompt, negative))
    import torch

    from course_utils.app.generate import adapter, lora_names
    from course_utils.data import to_uint8
    from course_utils.systems.reading import read_prompt
    from course_utils.systems.stable_diffusion import LATENT
    from course_utils.systems.stage import start_noise

    adapt, folder = adapter(lora, folder, lora_strength)
    opened, generator = open_painter(name, mask is not None, device, folder, adapt), torch.Generator().manual_seed(seed)
    prompts = [read_prompt(name, prompt, lora_names(lora))] * count
    away = None if negative is None else read_prompt(name, negative, lora_names(lora))
    options = {"steps": steps, "generator": generator, "guidance": guidance, "negative": away}
    if mask is None:
        states, taken = opened.img2img(picture, prompts, strength, **options), max(1, int(strength * steps))
    else:
        states, taken = opened.inpaint(start_noise(seed, count, LATENT), picture, mask, prompts, **options), steps
    for state in states:
        if progress is not None:
            progress(state.step, taken)
    pictures = to_uint8(opened.decode(state.xt))
    return pictures if mask is None else paste(pictures, picture, mask)


def open_painter(
    name: str,
    masked: bool,
    device: str | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[torch.nn.Module], None] | None = None,
) -> StableDiffusion:
    """The system that changes a picture: under a mask with its U-Net for inpainting, where that is at hand."""
    from course_utils import checkpoints
    from course_utils.devices import best_device

    fills = masked and adapt is None and INPAINTING[name] in checkpoints.available(folder)
    module = import_module(f"course_utils.systems.{SYSTEMS[name].module}")
    opened = module.open_stable_diffusion(INPAINTING[name] if fills else None, best_device(device), folder)
    if adapt is not None:
        adapt(opened.unet)
    return opened


def paste(pictures: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The new pictures where the mask is true, elsewhere the old one: the autoencoder changes also what is to stay."""
    import numpy as np

    return np.where(np.asarray(mask, bool)[None, :, :, None], pictures, picture)
