"""What the page of `course app` draws: its fields, as functions that know nothing of a browser.

prompt, options ──────────────┐
                              ├──► generate or redraw ──► pictures of 256 pixels a side ──► a PNG file to keep
picture, and what is brushed ─┘
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import generate
from course_utils.app.redraw import INPAINTING, redraw
from course_utils.errors import InputError
from course_utils.systems.registry import ENLARGED, PROMPTED, SYSTEMS

if TYPE_CHECKING:  # they take their time, and `course --help` needs none
    import numpy as np
    from PIL import Image

COUNT = (1, 16)  # what a gallery shows at a glance
SIDE = 64  # pixels of what is drawn from a picture


def reading(system: str) -> str:
    """The name of a system that reads prompts; InputError for any other."""
    if "prompt" not in SYSTEMS[errors.one_of("system", system, SYSTEMS)].inputs:
        raise InputError(
            f"{system} takes no prompt, and this page draws what a prompt says: `course draw --system {system}` draws "
            "with it"
        )
    return system


def paint(
    prompt: str,
    system: str = PROMPTED,
    negative: str = "",
    lora: list | None = None,
    lora_strength: float = 1.0,
    editor: dict | None = None,
    strength: float = 0.6,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    count: int = 4,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Draw what the fields of the page ask for, enlarged without smoothing: uint8 (count, 256, 256, 3).

    editor: Gradio's {"background", "layers", ...} of RGBA pictures; empty texts and lists count as not given. Raises
    InputError and CheckpointError as `draw_pictures` and `redraw` do.
    """
    errors.integer("the number of pictures", count, COUNT)
    picture, mask = read_editor(editor)
    common = {"steps": steps, "seed": seed, "count": count, "guidance": guidance, "device": device, "folder": folder}
    common |= {"lora": lora or None, "lora_strength": lora_strength, "progress": progress}
    common |= {"negative": negative.strip() or None, "system": reading(system)}
    if picture is None or system not in INPAINTING:
        pictures = generate.draw_pictures(prompt=prompt, **common)
    else:
        pictures = redraw(picture, prompt, mask, strength, **common)
    scale = ENLARGED // pictures.shape[1]
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def said_first(system: str, prompt: str, lora: list | None = None) -> str:
    """What of a prompt the system cannot follow, before it is drawn; empty where there is nothing to say."""
    return generate.prompt_note(reading(system), prompt, lora=lora or None) or ""


def read_editor(editor: dict | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The picture in the editor, uint8 (64, 64, 3), and where it was brushed, bool (64, 64); None for none."""
    import numpy as np
    from PIL import Image

    background, layers = (editor or {}).get("background"), (editor or {}).get("layers") or []
    painted = [np.asarray(shrink(layer).getchannel("A")) > 0 for layer in layers]
    mask = np.any(painted, axis=0) if painted else np.zeros((SIDE, SIDE), bool)
    if background is None or not np.asarray(background.convert("RGBA"))[..., 3].any():
        if mask.any():
            raise InputError("the brush marks what to draw anew, but there is no picture beneath it: load one first")
        return None, None
    white = Image.new("RGBA", background.size, "white")
    picture = shrink(Image.alpha_composite(white, background.convert("RGBA"))).convert("RGB")
    return np.array(picture), mask if mask.any() else None


def shrink(picture: Image.Image) -> Image.Image:
    """A picture as RGBA at the side of what is drawn, each pixel the mean of those it covers."""
    from PIL import Image

    return picture.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)


def save_sheet(pictures: np.ndarray, asked: dict, folder: str | Path) -> Path:
    """Write the pictures as one PNG file, named by the prompt, that holds the options as text too; returns its path."""
    from PIL import Image, PngImagePlugin

    notes = PngImagePlugin.PngInfo()
    for name, value in asked.items():
        if name != "editor":
            notes.add_itxt(name, str(value))
    path = Path(folder) / f"{errors.file_name(asked['prompt'])} {asked['seed']}.png"
    Image.fromarray(generate.grid(pictures, gap=8)).save(path, pnginfo=notes)
    return path
