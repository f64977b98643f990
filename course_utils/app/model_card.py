"""The model card of an export, its README.md: how to draw with it, what it took, what was measured, whose pictures.

card of the checkpoint ──┐
data/README.md ──────────┴──► README.md, as the Hugging Face hub reads it
"""

from __future__ import annotations

import re
from pathlib import Path

from course_utils import checkpoints
from course_utils.data import DATA_DIR
from course_utils.errors import DataError
from course_utils.interop.folder import MARK
from course_utils.systems.registry import Entry

SOURCES = re.compile(r"^## Sources, licences, attribution\n(.+?)(?=^## )", re.M | re.S)  # of the data's own card
CODE = """from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("path/of/this/folder")
"""
DRAW = """pipeline("{prompt}", num_inference_steps={steps}, guidance_scale={guidance}).images[0].save("picture.png")
"""
FILL = """picture = Image.open("picture.png").convert("RGB").resize((64, 64))
mask = Image.open("mask.png").convert("L").resize((64, 64))  # white is drawn anew
options = {{"height": 64, "width": 64, "num_inference_steps": {steps}, "guidance_scale": {guidance}}}
pipeline("{prompt}", image=picture, mask_image=mask, **options).images[0].save("filled.png")
"""


def model_card(
    name: str, entry: Entry, prompts: tuple[str, ...], fills: bool = False, folder: str | Path | None = None
) -> str:
    """The text of README.md, with {pipeline} where the name of diffusers' class belongs.

    name: of the checkpoint, which lies in `folder` (None: the shipped ones); prompts: those of example.png, the first
    for the code; fills: it draws anew what a mask marks, and there is no example.png. Raises CheckpointError without
    the checkpoint's card, DataError without the data's.
    """
    from huggingface_hub import ModelCardData

    card = checkpoints.card(name, folder)
    head = ModelCardData(
        language=["en", "zh"],
        license="mit",
        library_name="diffusers",
        pipeline_tag="image-to-image" if fills else "text-to-image",
        tags=["emoji", "education"],
    )
    code = ("from PIL import Image\n" if fills else "") + CODE
    code += (FILL if fills else DRAW).format(prompt=prompts[0], steps=entry.steps, guidance=entry.guidance)
    drawn = "; ".join(f"“{prompt}”" for prompt in prompts)
    parts = [
        f"---\n{head.to_yaml()}\n---\n# {name}\n\n{MARK}: {entry.summary}.",
        "" if fills else f"![What it draws](example.png)\n\nFrom left to right: {drawn}; {entry.steps} steps, seed 0.",
        f"## Draw with it\n\n```python\n{code}```\n\nThe tokenizer needs transformers 5 or newer.",
        f"## What it took\n\n{table([['', ''], *facts(card)])}",
        f"## What was measured\n\n{measured(card)}",
        f"## Licences\n\nThe weights are under the MIT licence. They learnt from other people's pictures:\n{sources()}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def facts(card: dict) -> list[list[str]]:
    """What a checkpoint took, row by row."""
    rows = {
        "learned numbers": f"{card.get('parameters', 0):,}",
        "trained for": f"{card.get('minutes', 0):g} minutes on {card.get('hardware', 'unknown hardware')}",
        "steps": f"{card.get('steps', 0):,}",
        "pictures seen": f"{card.get('pictures', 0):,}",
        "SHA-256 of the course's file": card.get("sha256", "unknown"),
    }
    rows |= {f"SHA-256 of {parent}, which it builds on": digest for parent, digest in card.get("parents", {}).items()}
    return [list(row) for row in rows.items()]


def measured(card: dict) -> str:
    """The figures of a checkpoint's card as a table, and those that stand alone beneath."""
    from course_utils.evaluation.report import COLUMNS, figures

    metrics = card.get("metrics", {})
    rows = {what: figures(values) for what, values in metrics.items() if isinstance(values, dict)}
    columns = [key for key in COLUMNS if any(key in row for row in rows.values())]
    lines = [["", *(COLUMNS[key] for key in columns)]]
    lines += [[what, *(row.get(key, "") for key in columns)] for what, row in rows.items()]
    alone = [f"{what}: {value:.4g}" for what, value in metrics.items() if not isinstance(value, dict)]
    judged = "Shares of pictures in which a network, trained to recognise those of the data, finds what was asked for."
    return "\n\n".join([*([judged, table(lines)] if rows else []), *alone]) or "Nothing yet."


def table(rows: list[list[str]]) -> str:
    """Rows as a table of Markdown, the first its head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def sources() -> str:
    """Whose pictures and names these are, and under which licences: a section of the data's card."""
    path = DATA_DIR / "README.md"
    found = SOURCES.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        raise DataError(f"{path} does not say whose pictures these are: `git checkout -- data` brings it back")
    return re.sub(r"\[([^\]]+)\]\(licenses/[^)]+\)", r"\1", found[1]).rstrip()  # the texts lie beside the data alone
