"""All systems by name: what each is, what it reads, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import GUIDANCE, SEED, STEPS, CheckpointError, InputError, integer, number, one_of

if TYPE_CHECKING:  # `course --help` lists the systems, and torch takes its time
    import torch

    from course_utils.systems.stage import System


@dataclass(frozen=True)
class Entry:
    """A system before it is opened.

    inputs: what it reads, of "prompt", "guidance", "lora" and "prior"; steps, guidance: how it draws when nothing is
    said; module: where its open_stages(device, folder, adapt) lies, which takes a prior too where it is an input;
    card: the checkpoint whose card keeps what an evaluation finds (None: that of the system's name); size: pixels a
    side of what it draws itself.
    """

    summary: str
    inputs: tuple[str, ...]
    steps: int
    guidance: float
    module: str
    card: str | None = None
    size: int = 64

    @property
    def sizes(self) -> tuple[int, int]:
        """Pixels a side that can be asked for: its own, and what Imagen's last stage makes of it."""
        return self.size, ENLARGED

    def options(self, steps: int | None, guidance: float | None, seed: int) -> tuple[int, float, int]:
        """What is asked for, or the system's own for None; InputError for anything out of range."""
        return (
            integer("steps", self.steps if steps is None else steps, STEPS),
            number("guidance", self.guidance if guidance is None else guidance, GUIDANCE),
            integer("seed", seed, SEED),
        )


ENLARGED = 256  # pixels a side of what Imagen's last stage makes of any other picture
SYSTEMS = {
    "noise-predictor": Entry("emoji out of pure noise; it takes no prompt", (), 50, 1.0, "unconditional", size=32),
    "text-pixel": Entry(
        "32x32 emoji from an English or a Chinese prompt", ("prompt", "guidance"), 12, 1.5, "text_pixel", size=32
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
    "imagen": Entry(
        "64x64 emoji from a prompt that a frozen language model reads, by way of 16x16",
        ("prompt", "guidance"),
        20,
        3.0,
        "imagen",
        card="imagen-base",
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
    size: int | None = None,
) -> System:
    """Open a system with its checkpoints, on the device (None: the best there is).

    folder: where its checkpoints lie (None: the shipped ones); adapt(unet): puts a LoRA into the loaded U-Net;
    loras: what it puts there, the course's own by name, so that their words are known; prior: "diffusion", "ar" or
    "none", of dalle2 (None: the first); size: pixels a side, its own (None) or 256, for which a last stage enlarges.
    Raises InputError for an unknown system, one that takes no LoRA or prior, or another size, CheckpointError for a
    missing or damaged checkpoint.
    """
    entry = SYSTEMS[one_of("system", name, SYSTEMS)]
    if adapt is not None and "lora" not in entry.inputs:
        raise InputError(f"a LoRA changes stable-diffusion and nothing else, so {name} cannot take one")
    if prior is not None and "prior" not in entry.inputs:
        raise InputError(f"a prior stands before the decoder of dalle2 and of nothing else, so {name} has none")
    if size is not None and size not in entry.sizes:
        own, enlarged = entry.sizes
        raise InputError(f"{name} draws pictures of {own} pixels a side, or of {enlarged}: size cannot be {size!r}")
    from course_utils.devices import best_device
    from course_utils.systems.stage import System

    device = best_device(None if device is None else str(device))
    chosen = {} if prior is None else {"prior": prior}
    stages = import_module(f"course_utils.systems.{entry.module}").open_stages(device, folder, adapt, **chosen)
    if size == ENLARGED:
        from course_utils.systems.super_resolution import open_sr2

        stages = (*stages, open_sr2(device, folder).stage())
    if "prompt" not in entry.inputs:
        return System(stages, device, entry.steps, entry.guidance, prompted=False)
    from course_utils.systems.reading import Reader

    reader = Reader(name, loras or ("a LoRA",) * (adapt is not None))
    return System(stages, device, entry.steps, entry.guidance, reader=reader)


def systems_at_hand(
    folder: str | Path | None = None, left_out: Callable[[str, CheckpointError], None] | None = None
) -> list[str]:
    """The systems that read prompts and whose checkpoints are all here, whole and fitting, PROMPTED first.

    left_out(name, error): called for each other. CheckpointError for none: what PROMPTED lacks.
    """
    found, missing = [], []
    for name in sorted(SYSTEMS, key=lambda name: name != PROMPTED):
        if "prompt" not in SYSTEMS[name].inputs:
            continue
        try:
            open_system(name, "cpu", folder)
        except CheckpointError as error:
            missing.append((name, error))
        else:
            found.append(name)
    if not found:
        raise missing[0][1]
    for each in missing if left_out else ():
        left_out(*each)
    return found
