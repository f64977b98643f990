"""Draw pictures with a shipped checkpoint: `course draw`, and what the prompt box of notebook 00 calls."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import inputs
from course_utils.systems.registry import PROMPTED, SYSTEMS, UNPROMPTED, open_system

if TYPE_CHECKING:  # it takes its time, and `course --help` needs none
    import numpy as np

    from course_utils.systems.registry import Entry

SIDE = 1024  # pixels, about the side of a grid
EXAMPLES = (
    "pink butterfly, noto style, blue sky and grass",
    "粉色的蝴蝶,蓝天,草地",
    "panda, night sky",
    "红色的汽车,雪地",
)


# ------------------------------------------------------------------ the command
# options that `draw_pictures` takes under the same names
ASKED = ("steps", "seed", "count", "guidance", "negative", "device", "folder", "lora", "lora_strength", "prior", "size")


def draw(args: argparse.Namespace) -> int:
    """Draw pictures and write them to one file, as a grid when there are several."""
    path, start = inputs.picture_file(args.out), time.perf_counter()
    system = default_system(args.system, args.prompt)
    entry, options = SYSTEMS[system], {name: getattr(args, name) for name in ASKED}
    if args.prompt is not None and "prompt" not in entry.inputs:
        inputs.say(prompt_note(system, args.prompt))
    with errors.prompt_notes(inputs.say):  # before the drawing, which takes its time
        pictures = draw_pictures(system, args.prompt, progress=inputs.show_progress(), **options)
    save_grid(pictures, path)
    if sentence := idle_options(args, entry):
        inputs.say(sentence)
    steps, seconds = args.steps or entry.steps, time.perf_counter() - start
    print(
        f"{args.count} picture{'s' * (args.count > 1)} of {pictures.shape[2]} × {pictures.shape[1]} by {system}, "
        f"{steps} steps, seed {args.seed}, in {seconds:.1f} s: {path}"
    )
    return 0


def idle_options(args: argparse.Namespace, system: Entry) -> str | None:
    """One sentence when something was asked for that changes nothing in what this system draws, else None."""
    said = [f"--{name}" for name in ("guidance", "negative") if getattr(args, name) is not None]
    if said and "guidance" not in system.inputs:
        return f"{' and '.join(said)} changed nothing: without a prompt there is nothing to follow or to stay away from"
    if args.lora is None and args.lora_strength != 1:
        return "--lora-strength changed nothing: there is no --lora"
    guidance = system.guidance if args.guidance is None else args.guidance
    if args.negative is not None and guidance == 1:
        return "--negative changed nothing, since guidance is off: give a --guidance above 1"
    if args.guidance == 0:
        return "the prompt changed nothing: --guidance 0 follows what to stay away from, or nothing at all"
    return None


# ------------------------------------------------------------------ what it calls, and notebooks too
def default_system(system: str | None, prompt: object) -> str:
    """The name of the system to draw with; None means one that reads when there is a prompt, else one that need not."""
    if system is None:
        return UNPROMPTED if prompt is None else PROMPTED
    return errors.one_of("system", system, SYSTEMS)


def prompt_note(
    system: str | None,
    prompt: str | None,
    negative: str | None = None,
    lora: str | Path | list | None = None,
) -> str | None:
    """One sentence when the system cannot follow all of the prompt that was given, else None.

    It names the words that the system was never shown, the nearest that it knows, and what is cut off a long prompt.
    """
    if not isinstance(prompt, str):
        return None
    name = default_system(system, prompt)
    if "prompt" not in SYSTEMS[name].inputs:
        return (
            "the noise predictor takes no prompt, so yours is left aside: it draws whatever emoji the noise "
            "suggests. Steering with words begins in notebook 04: --system text-pixel or stable-diffusion"
        )
    from course_utils.systems.reading import Reader

    return Reader(name, lora_names(lora)).note([prompt, *([] if negative is None else [negative])])


def lora_names(lora: str | Path | list | None) -> tuple[str, ...]:
    """What LoRAs are called: "xp7" for "xp7" and for "runs/xp7.safetensors"."""
    loras = lora if isinstance(lora, (list, tuple)) else [] if lora is None else [lora]
    return tuple(Path(each).stem for each in loras if isinstance(each, (str, Path)))


def draw_pictures(
    system: str | None = None,
    prompt: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    count: int = 16,
    guidance: float | None = None,
    negative: str | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    lora: str | Path | list | None = None,
    progress: Callable[[int, int], None] | None = None,
    prior: str | None = None,
    size: int | None = None,
    lora_strength: float = 1.0,
) -> np.ndarray:
    """Draw `count` pictures with a system's checkpoint: uint8 (count, H, W, 3).

    system: one of SYSTEMS (None: PROMPTED if there is a prompt); steps 1..1000, guidance 0..20 (1: off), None for
    the system's own; seed 0..2**32-1: picture i of a seed is the same for every count and device (to rounding);
    negative: a prompt to move away from; folder: where the checkpoint lies (None: the shipped ones); lora: a shipped
    LoRA's name or a file, or a list of them whose sum is taken, for stable-diffusion; progress(done, total): called
    after every step; prior: "diffusion", "ar" or "none", for dalle2; size: pixels a side, the system's own (None) or
    256; lora_strength: 0 to 2, what the LoRA is multiplied by. A PromptWarning names words that the system was never
    shown.
    Raises InputError for anything out of range, CheckpointError for a missing or damaged checkpoint.
    """
    name = default_system(system, prompt)
    steps, guidance, seed = SYSTEMS[name].options(steps, guidance, seed)
    count = errors.integer("count", count, inputs.COUNT)
    prompt, negative = (text if text is None else errors.prompt_text(text) for text in (prompt, negative))
    if "prompt" in SYSTEMS[name].inputs and prompt is None:
        raise errors.InputError(f'{name} draws what a prompt says: give it one, such as "pink butterfly"')
    prompts = [prompt] * count
    return draw_prompts(
        name, prompts, steps, seed, guidance, negative, device, folder, progress, lora, prior, size, lora_strength
    )


def draw_prompts(
    system: str,
    prompts: list,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    negative: str | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    lora: str | Path | list | None = None,
    prior: str | None = None,
    size: int | None = None,
    lora_strength: float = 1.0,
) -> np.ndarray:
    """Draw a picture for each prompt, uint8 (N, H, W, 3), the i-th from the seed's i-th noise; see `draw_pictures`."""
    adapt, folder = adapter(lora, folder, lora_strength)
    opened = open_system(system, device, folder, adapt, lora_names(lora), prior, size)
    return opened.draw(prompts, seed, steps, guidance, negative, progress)


def adapter(
    lora: str | Path | list | None, folder: str | Path | None = None, strength: float = 1.0
) -> tuple[Callable | None, str | Path | None]:
    """What puts a LoRA, or the sum of several, into a U-Net (None for none), and the folder of the checkpoints then.

    strength: what it is multiplied by; InputError outside 0..2.
    """
    strength = errors.number("the LoRA's strength", strength, inputs.LORA_STRENGTH)
    if lora is None:
        return None, folder
    from course_utils.interop.lora_files import lora_adapter, unet_folder

    return lora_adapter(lora, folder, strength), unet_folder(lora, folder)


def grid(pictures: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay pictures (N, H, W, 3) uint8 out on white, enlarged without smoothing to about 1,024 pixels: (H', W', 3)."""
    import numpy as np

    count, height, width, _ = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    scale = max(1, SIDE // max(sheet.shape[:2]))
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def save_grid(pictures: np.ndarray, path: Path, columns: int | None = None) -> None:
    """Write pictures (N, H, W, 3) uint8 as a `grid` to a file, at once or not at all; its ending says the format."""
    from PIL import Image

    from course_utils.checkpoints import write_atomically

    sheet, kind = Image.fromarray(grid(pictures, columns)), Image.registered_extensions()[path.suffix.lower()]
    write_atomically(path, lambda temporary: sheet.save(temporary, kind))
