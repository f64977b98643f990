"""`course app --space`: the page as a folder that a Space on the Hugging Face hub runs as it is.

course_utils/ ── data/, what drawing reads of it ── data/checkpoints/ ── app.py ── requirements.txt ── README.md
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from course_utils import checkpoints
from course_utils.app.doctor import needed
from course_utils.data import DATA_DIR
from course_utils.errors import InputError

LIBRARY = Path(__file__).resolve().parents[1]
READ = ("tokenizer.json", "splits.json", "emoji_64.parquet", "text_encoder.json", "text_encoder.safetensors")
BESIDE = ("SHA256SUMS", "README.md", "licenses")
CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"  # a Space that costs nothing has no GPU
APP = """from course_utils.app.web import launch

launch()
"""
CARD = """---
title: Pictures from Noise
emoji: 🦋
colorFrom: blue
colorTo: pink
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: mit
short_description: Small emoji from an English or a Chinese prompt
---
# Pictures from Noise

The page of `course app`, from the course Pictures from Noise. `python app.py` opens it here. To open it to others,
upload this folder as a Space:

    hf auth login
    hf upload ME/NAME THIS_FOLDER --repo-type space

Code and weights are under the MIT licence. `data/README.md` says whose pictures the weights learnt from, and under
which licences those are.
"""


def write_space(folder: str | Path, source: str | Path | None = None) -> Path:
    """Write the page, with the checkpoints of a folder (None: the shipped ones), to a new or empty folder: its path.

    Nothing is left where it fails. Raises InputError for a folder that holds something, CheckpointError for a damaged
    checkpoint.
    """
    folder, source = Path(folder), Path(source or checkpoints.CHECKPOINT_DIR)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} holds something: name a new folder, or an empty one")
    files = {"app.py": APP, "README.md": CARD.format(gradio=version("gradio"))}
    files["requirements.txt"] = "\n".join([CPU, *(name + versions for name, versions in needed().items()), ""])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name, suffix=".part") as temporary:
        new = Path(temporary) / "new"
        shutil.copytree(LIBRARY, new / "course_utils", ignore=shutil.ignore_patterns("__pycache__"))
        (new / "data" / "checkpoints").mkdir(parents=True)
        for name in (*READ, *BESIDE):
            copy = shutil.copytree if (DATA_DIR / name).is_dir() else shutil.copy
            copy(DATA_DIR / name, new / "data" / name)
        for name in checkpoints.available(source):
            weights = checkpoints.check(name, source)
            for path in (weights, weights.with_suffix(".json")):
                shutil.copy(path, new / "data" / "checkpoints")
        for name, text in files.items():
            (new / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        new.replace(folder)
    return folder
