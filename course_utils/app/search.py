"""Find the pictures of the course that fit a prompt best, by CLIP: what `course search` calls.

prompt ──► text_embed ─────┐
                           ├──► cosines ──► the nearest pictures, with their names
pictures ──► image_embed ──┘    (made once for each checkpoint, and kept)
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app import inputs

if TYPE_CHECKING:  # they take their time, and `course --help` needs none
    import torch

    from course_utils.data import Emoji
    from course_utils.systems.clip import CLIP

COUNT = 12  # two rows of six


def search(args: argparse.Namespace) -> int:
    """Write the pictures nearest to a prompt to one file, each with its name, style and cosine."""
    path, start = inputs.picture_file(args.out), time.perf_counter()
    emoji, index, cosines = find_pictures(args.prompt, args.count, args.folder, args.device)
    from course_utils.checkpoints import write_atomically

    sheet, kind = draw_sheet(args.prompt, emoji, index, cosines), path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda temporary: sheet.savefig(temporary, format=kind))
    print(
        f"{len(index)} of {len(emoji):,} pictures, the nearest with a cosine of {cosines[0]:.2f}, "
        f"in {time.perf_counter() - start:.1f} s: {path}"
    )
    return 0


def find_pictures(
    prompt: str, count: int = COUNT, folder: str | Path | None = None, device: str | None = None
) -> tuple[Emoji, list[int], list[float]]:
    """Return all flat pictures of the course, and which `count` of them are nearest to the prompt, with their cosines.

    folder: where the checkpoint lies (None: the shipped one). Raises InputError for a prompt that is no text, is empty
    or too long, and for a count outside 1..64; CheckpointError for a missing or damaged checkpoint. Notebook 07.
    """
    prompt, count = errors.prompt_text(prompt), errors.integer("count", count, inputs.COUNT)
    from course_utils.data import load_emoji
    from course_utils.devices import best_device
    from course_utils.systems.clip import SIZE, embed_texts, open_clip

    clip = open_clip(best_device(device), folder)
    emoji = load_emoji(SIZE, split="all")
    cosines = embed_gallery(clip, emoji) @ embed_texts(clip, [prompt])[0]  # (N,)
    nearest = cosines.topk(count)
    return emoji, nearest.indices.tolist(), nearest.values.tolist()


def embed_gallery(clip: CLIP, emoji: Emoji) -> torch.Tensor:
    """Return the vectors of pictures on white, (N, D): from a file, when this CLIP has seen these pictures before."""
    from course_utils.data import to_tensor
    from course_utils.datasets.latent_cache import cached, digest
    from course_utils.systems.clip import embed_images

    def make() -> dict[str, torch.Tensor]:
        return {"image_embed": embed_images(clip, to_tensor(emoji.on_white()))}

    weights = [value.float().cpu().numpy() for value in clip.state_dict().values()]
    return cached("gallery", digest(emoji.rgba, *weights), make)["image_embed"]


def draw_sheet(prompt: str, emoji: Emoji, index: list[int], cosines: list[float]):
    """Return a figure of the pictures found: under each its name in the prompt's language, its style, its cosine."""
    from course_utils.figures import plotting

    name = "name_zh" if re.search("[\u4e00-\u9fff]", prompt) else "name_en"
    titles = [f"{emoji.meta[i][name]}, {emoji.meta[i]['style']} {cosine:.2f}" for i, cosine in zip(index, cosines)]
    plotting.use_course_style()
    shown = prompt if len(prompt) <= 60 else prompt[:59] + "\u2026"  # one line
    return plotting.show_pictures(emoji.select(index).on_white(), titles, columns=6, title=shown)
