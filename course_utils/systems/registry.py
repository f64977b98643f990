"""All systems by name: what each is, what it reads, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import GUIDANCE, SEED, STEPS, InputError, integer, number, one_of

if TYPE_CHECKING:  # `course --help` lists the systems, and torch takes its time
    import torch

    from course_utils.systems.stage import System


@dataclass(frozen=True)
class Entry:
    """A system before it is opened.

    inputs: what it reads, of "prompt", "guidance", "lora" and "prior"; steps, guidance: how it draws when nothing is
    said; module: where its open_stages(device, folder, adapt) lies, which takes a prior too where it is an input;
    card: the checkpoint whose card keeps what an evaluation finds (None: that of the system's name).
    """

    summary: str
    inputs: tuple[str, ...]
    steps: int
    guidance: float
    module: str
    card: str | None = None

    def options(self, steps: int | None, guidance: float | None, seed: int) -> tuple[int, float, int]:
        """What is asked for, or the system's own for None; InputError for anything out of range."""
        return (
            integer("steps", self.steps if steps is None else steps, STEPS),
            number("guidance", self.guidance if guidance is None else guidance, GUIDANCE),
            integer("seed", seed, SEED),
        )


SYSTEMS = {
    "noise-predictor": Entry("emoji out of pure noise; it takes no prompt", (), 50, 1.0, "unconditional"),
    "text-pixel": Entry(
        "32x32 emoji from an English or a Chinese prompt", ("prompt", "guidance"), 12, 1.5, "text_pixel"
    ),
    "stable-diffusion": Entry(
        "64x64 emoji from a prompt, painted as latents", ("prompt", "guidance", "lora"), 20, 2.0, "stable_diffusion"
    ),
    "stable-diffusion-clip": Entry(
        "64x64 emoji of 1,015 things; CLIP reads the prompt", ("prompt", "guidance"), 20, 3.0, "stable_diffusion_clip"
    ),
    "dalle2": Entry(
        "64x64 emoji from a prompt, by way of the CLIP vector of a picture",
        ("prompt", "guidance", "prior"),
        20,
        2.0,
        "dalle2",
        card="unclip-decoder",
    ),
}
UNPROMPTED, PROMPTED = "noise-predictor", "stable-diffusion"  # what draws when nobody names a system


def open_system(
    name: str,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[torch.nn.Module], None] | None = None,
    loras: tuple[str, ...] = (),
    prior: str | None = None,
) -> System:
    """Open a system with its checkpoints, on the device (None: the best there is).

    folder: where its checkpoints lie (None: the shipped ones); adapt(unet): puts a LoRA into the loaded U-Net;
    loras: what it puts there, the course's own by name, so that their words are known; prior: "diffusion", "ar" or
    "none", of dalle2 (None: the first).
    Raises InputError for an unknown system or one that takes no LoRA or prior, CheckpointError for a missing or damaged
    checkpoint.
    """
    entry = SYSTEMS[one_of("system", name, SYSTEMS)]
    if adapt is not None and "lora" not in entry.inputs:
        raise InputError(f"a LoRA changes stable-diffusion and nothing else, so {name} cannot take one")
    if prior is not None and "prior" not in entry.inputs:
        raise InputError(f"a prior stands before the decoder of dalle2 and of nothing else, so {name} has none")
    from course_utils.devices import best_device
    from course_utils.systems.reading import Reader
    from course_utils.systems.stage import System

    device = best_device(None if device is None else str(device))
    chosen = {} if prior is None else {"prior": prior}
    stages = import_module(f"course_utils.systems.{entry.module}").open_stages(device, folder, adapt, **chosen)
    prompted = "prompt" in entry.inputs
    reader = Reader(name, loras or ("a LoRA",) * (adapt is not None)) if prompted else None
    return System(stages, device, entry.steps, entry.guidance, prompted, reader)
