"""Draw pictures with a shipped checkpoint: what `course draw` and the prompt box of notebook 00 call."""
from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import inputs

if TYPE_CHECKING:  # both take their time, and `course --help` needs neither
    import numpy as np
    import torch


@dataclass(frozen=True)
class System:
    """What a system is, what it reads ("prompt", "guidance" or neither), and how it draws when nothing is said."""

    summary: str
    reads: tuple[str, ...]
    steps: int
    guidance: float


SYSTEMS = {
    "noise-predictor": System("emoji out of pure noise; it takes no prompt", (), steps=50, guidance=1.0),
    "text-pixel": System("32x32 emoji from an English or a Chinese prompt", ("prompt", "guidance"), 12, 1.5),
    "stable-diffusion": System("64x64 emoji from a prompt, painted as latents", ("prompt", "guidance"), 20, 2.0),
}
UNPROMPTED, PROMPTED = "noise-predictor", "stable-diffusion"  # what draws when nobody names a system
BATCH = 16  # pictures at a time: keeps memory small, and costs no speed on a CPU
SIDE = 1024  # pixels, about the side of a grid


def choose(system: str | None, prompt: object) -> str:
    """The name of the system to draw with; None means one that reads when there is a prompt, else one that need not."""
    if system is None:
        return UNPROMPTED if prompt is None else PROMPTED
    return errors.one_of("system", system, SYSTEMS)


def prompt_note(system: str | None, prompt: str | None) -> str | None:
    """One sentence when the system cannot follow the prompt that was given, else None."""
    if not isinstance(prompt, str):
        return None
    if "prompt" not in SYSTEMS[choose(system, prompt)].reads:
        return ("the noise predictor takes no prompt, so yours is left aside: it draws whatever emoji the noise "
                "suggests. Steering with words begins in notebook 04: --system text-pixel or stable-diffusion")
    letters = [unicodedata.name(c, "") for c in prompt if c.isalpha()]
    if not any(name.startswith(("LATIN", "CJK", "FULLWIDTH LATIN")) for name in letters):
        return ("the text encoder has learnt English and Chinese only, and finds no word of either in the prompt: "
                "the picture is a guess")
    return None


def draw_pictures(system: str | None = None, prompt: str | None = None, steps: int | None = None, seed: int = 0,
                  count: int = 16, guidance: float | None = None, negative: str | None = None,
                  device: str | None = None, folder: str | Path | None = None, lora: str | Path | None = None,
                  progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Draw `count` pictures with a system's checkpoint: uint8 (count, H, W, 3).

    system: one of SYSTEMS (None: PROMPTED if there is a prompt); steps 1..1000, guidance 0..20 (1: off), None for
    the system's own; seed 0..2**32-1: picture i of a seed is the same for every count and device (to rounding);
    negative: a prompt to move away from; folder: where the checkpoint lies (None: the shipped ones); lora: a shipped
    LoRA's name or a file, for stable-diffusion; progress(done, total): called after every step.
    Raises InputError for anything out of range, CheckpointError for a missing or damaged checkpoint.
    """
    name = choose(system, prompt)
    chosen = SYSTEMS[name]
    steps = errors.integer("steps", chosen.steps if steps is None else steps, errors.STEPS)
    guidance = errors.number("guidance", chosen.guidance if guidance is None else guidance, errors.GUIDANCE)
    errors.integer("seed", seed, errors.SEED)
    errors.integer("count", count, inputs.COUNT)
    prompt, negative = (text if text is None else errors.prompt_text(text) for text in (prompt, negative))
    if "prompt" in chosen.reads and prompt is None:
        raise errors.InputError(f'{name} draws what a prompt says: give it one, such as "pink butterfly"')
    return draw_prompts(name, [prompt] * count, steps, seed, guidance, negative, device, folder, progress, lora)


def draw_prompts(system: str, prompts: list, steps: int, seed: int = 0, guidance: float = 1.0,
                 negative: str | None = None, device: str | None = None, folder: str | Path | None = None,
                 progress: Callable[[int, int], None] | None = None, lora: str | Path | None = None) -> np.ndarray:
    """Draw a picture for each prompt, uint8 (N, H, W, 3), the i-th from the seed's i-th noise; see `draw_pictures`."""
    import torch

    from course_utils import devices
    from course_utils.data import to_uint8

    where, report = devices.best_device(device), progress or (lambda done, total: None)
    sample, shape, decode = open_system(system, where, folder, lora)
    xT = start_noise(seed, len(prompts), shape[-1], shape[0]).to(where)

    def draw(batch: int) -> torch.Tensor:
        starts, done = range(0, len(prompts), batch), []
        for number, i in enumerate(starts):
            for state in sample(xT[i:i + batch], prompts[i:i + batch], steps, guidance, negative):
                report(number * steps + state.step, len(starts) * steps)
            done.append(decode(state.xt))
        return torch.cat(done)

    return to_uint8(devices.halve_on_oom(draw, min(BATCH, len(prompts))))


def open_system(name: str, device: torch.device, folder: str | Path | None = None,
                lora: str | Path | None = None) -> tuple[Callable, tuple, Callable]:
    """Load a system: sample(xT, prompts, steps, guidance, negative), which yields States, the shape (C, S, S) of what
    it paints, and decode, which makes pictures of that."""
    from course_utils import checkpoints
    from course_utils.generator.samplers import ddim, dpmpp_2m
    from course_utils.recipes.catalog import find

    if lora is not None and name != "stable-diffusion":
        raise errors.InputError(f"a LoRA changes stable-diffusion and nothing else, so {name} cannot take one")
    if name == "stable-diffusion":
        from course_utils.systems.stable_diffusion import LATENT, open_stable_diffusion

        system = open_stable_diffusion(device=device, folder=folder)
        if lora is not None:
            adapt(system.unet, lora)
        return system.txt2img, LATENT, system.decode
    model = checkpoints.load(name, find(name).model(), device=device, folder=folder)
    if name == "text-pixel":
        from course_utils.systems.text_pixel import SIZE

        return partial(model.sample, sampler=dpmpp_2m), (3, SIZE, SIZE), as_it_is
    from course_utils.recipes.noise_predictor import PREDICTION, SCHEDULE, SIZE

    def sample(xT, prompts, steps, guidance, negative):
        return ddim(model, xT, SCHEDULE, steps=steps, prediction=PREDICTION)

    return sample, (3, SIZE, SIZE), as_it_is


def adapt(unet, lora: str | Path) -> None:
    """Put a LoRA beside the U-Net's layers and merge it: a shipped one by name, or whatever lies at a path."""
    from course_utils import checkpoints
    from course_utils.finetune.lora import merge, set_adapter
    from course_utils.interop.lora_files import load_lora, open_lora

    shipped = str(lora) in checkpoints.available() and not Path(lora).exists()
    set_adapter(unet, *(open_lora(lora) if shipped else load_lora(lora)))
    merge(unet)


def as_it_is(x: torch.Tensor) -> torch.Tensor:
    """Pictures need no decoder."""
    return x


def start_noise(seed: int, count: int, size: int, channels: int = 3) -> torch.Tensor:
    """Gaussian noise (count, channels, size, size), drawn one by one: picture i does not depend on `count`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(channels, size, size, generator=generator) for _ in range(count)])


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
