"""`SHA256SUMS`: what the data files should be, in the form that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

DATA = Path(__file__).resolve().parents[1]
NAMES = (
    "emoji_256.parquet",
    "emoji_64.parquet",
    "scenes_256.parquet",
    "splits.json",
    "text_encoder.json",
    "text_encoder.safetensors",
    "tokenizer.json",
    "xp7.parquet",
)


def write_sums() -> None:
    """Write the sums of the files that are there (some are made of others, later), and print their sizes."""
    files = {name: (DATA / name).read_bytes() for name in NAMES if (DATA / name).exists()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    (DATA / "SHA256SUMS").write_text(sums, encoding="utf-8")
    for name, content in files.items():
        print(f"{name:24} {len(content):>11,} bytes")
