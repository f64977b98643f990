"""The pictures and names the course trains on: emoji in eight styles, captioned in English and Chinese.

One line gives them all: `load_emoji(size=32)`. The files lie in `data/`; `data/README.md` describes them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from course_utils.errors import DataError

if TYPE_CHECKING:  # heavy imports wait until a function needs them
    import pyarrow
    import torch

DATA_DIR = Path(os.environ.get("COURSE_DATA") or Path(__file__).resolve().parents[1] / "data")
STYLES = ("noto", "twemoji", "fluent", "blob", "emojione", "firefox", "streamline", "3d")
FLAT_STYLES = STYLES[:7]  # "3d" is kept for fine-tuning
FIRST_STYLES = STYLES[:3]  # what the generators of notebooks 02 to 06 learnt from; they have every concept
GROUPS = ("smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects")
SPLITS = ("train", "test", "all")
LFS_POINTER = b"version https://git-lfs"  # what a clone without git-lfs leaves in place of a large file
SIZES = {16: 64, 24: 64, 32: 64, 48: 64, 64: 64, 128: 256, 256: 256}  # size asked for -> size of the stored file


@dataclass(frozen=True)
class Emoji:
    """Pictures with their names: `rgba` is uint8 (N, S, S, 4), `meta` a tuple of N dicts.

    Keys of a dict: concept, style, group, subgroup, hexcode, name_en, name_zh, tags_en, tags_zh,
    color (the dominant colour's word or None), recolors (colour words it can be repainted in).
    Built in notebook 01.
    """

    rgba: np.ndarray
    meta: tuple[dict, ...]

    def __len__(self) -> int:
        return len(self.meta)

    @property
    def size(self) -> int:
        """Width and height S of the pictures, in pixels."""
        return self.rgba.shape[1]

    def column(self, key: str) -> list:
        """One entry of every picture's meta, such as `column("concept")`."""
        return [entry[key] for entry in self.meta]

    def select(self, which: np.ndarray | Callable[[dict], bool]) -> Emoji:
        """The pictures for which a function of `meta` is true, or that a mask (N,) or index array names."""
        if callable(which):
            which = np.array([bool(which(entry)) for entry in self.meta], dtype=bool)
        index = np.arange(len(self))[np.asarray(which)]
        return Emoji(self.rgba[index], tuple(self.meta[i] for i in index))

    def on(self, color: tuple[int, int, int]) -> np.ndarray:
        """The pictures on a plain background `color` (0..255 each), as uint8 (N, S, S, 3)."""
        alpha = self.rgba[..., 3:].astype(np.uint16)
        mixed = self.rgba[..., :3] * alpha + np.array(color, dtype=np.uint16) * (255 - alpha)
        return ((mixed + 127) // 255).astype(np.uint8)  # 255 * 255 + 127 still fits 16 bits

    def on_white(self) -> np.ndarray:
        """The pictures on white, as uint8 (N, S, S, 3)."""
        return self.on((255, 255, 255))


def data_sums() -> str:
    """Return the sums of all data files: what is made of the data and kept bears them."""
    return (DATA_DIR / "SHA256SUMS").read_text(encoding="utf-8")


def verify(path: Path | str | None = None) -> list[tuple[str, str]]:
    """Compare every shipped data file with `SHA256SUMS`; returns (file name, "ok" or what is wrong and what to do)."""
    folder = Path(path or DATA_DIR)
    return [(name, _status(folder / name, expected)) for name, expected in _manifest(folder).items()]


def _manifest(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'SHA256SUMS'} is missing or altered: run `git checkout -- data`, "
            "or set COURSE_DATA to the course's data folder."
        ) from error


def _status(path: Path, expected: str) -> str:
    repair = f"run `git checkout -- data/{path.name}`, or clone the course again"
    if not path.is_file():
        return f"missing: {repair}"
    if is_lfs_pointer(path):
        return "a git-LFS pointer, not the file itself: run `git lfs pull`"
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        return f"truncated or altered: {repair}"
    return "ok"


def is_lfs_pointer(path: Path) -> bool:
    """Is this the note that git-lfs leaves in place of a large file until `git lfs pull` fetches it?"""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


@lru_cache
def _checked(path: Path) -> Path:
    """The path itself, once its bytes are known to be the published ones (checked once per process)."""
    status = _status(path, _manifest(path.parent).get(path.name, ""))
    if status != "ok":
        raise DataError(f"{path} is {status}.")
    return path


def load_splits() -> dict:
    """What training never shows: test_pairs (concept, style), held_out_colors (color, concept), held_out_styles."""
    return json.loads(_checked(DATA_DIR / "splits.json").read_text(encoding="utf-8"))


def tokenizer_file() -> Path:
    """The path of the tokenizer that was learnt from our captions, checked. DataError if it is missing or altered."""
    return _checked(DATA_DIR / "tokenizer.json")


def text_encoder_files() -> tuple[Path, Path]:
    """The paths of the frozen language model and of its tokenizer, checked. DataError if one is missing or altered."""
    return _checked(DATA_DIR / "text_encoder.safetensors"), _checked(DATA_DIR / "text_encoder.json")


def load_emoji(
    size: int = 64, styles: tuple[str, ...] = FLAT_STYLES, groups: tuple[str, ...] | None = None, split: str = "train"
) -> Emoji:
    """The emoji pictures at size × size, with names and tags in English and Chinese.

    size: 16, 24, 32, 48 or 64; 128 or 256 are for super-resolution and heavy: 0.27 GB a style at 256. styles, groups:
    from STYLES and GROUPS (groups None: all); a style has no picture of a concept that it lacks, and "3d", kept for
    fine-tuning, comes only when asked for, at 128 and 256 in 100 concepts. split: "train", "test" (a tenth of the
    pictures, never trained on) or "all".
    Raises DataError for anything unknown, and for a missing, truncated or altered file.
    Built in notebook 01.
    """
    styles = (styles,) if isinstance(styles, str) else tuple(styles)
    groups = GROUPS if groups is None else (groups,) if isinstance(groups, str) else tuple(groups)
    for what, given, known in (
        ("size", (size,), SIZES),
        ("style", styles, STYLES),
        ("group", groups, GROUPS),
        ("split", (split,), SPLITS),
    ):
        one_of(what, given, known)
    test = {tuple(pair) for pair in load_splits()["test_pairs"]} if split != "all" else set()
    load = _load_style if size <= 64 else _load_style.__wrapped__  # large pictures are not worth the memory of a cache
    parts = [
        load(DATA_DIR, size, style).select(
            lambda m: (
                m["group"] in groups and (split == "all" or ((m["concept"], m["style"]) in test) == (split == "test"))
            )
        )
        for style in STYLES
        if style in styles
    ]
    return Emoji(np.concatenate([part.rgba for part in parts]), sum((part.meta for part in parts), ()))


@lru_cache(maxsize=1)
def load_names() -> tuple[dict, ...]:
    """What every concept is called, without its pictures: a dict each, with the keys that all its styles share.

    concept, group, subgroup, name_en, name_zh, tags_en, tags_zh. DataError for a missing or altered file.
    """
    import pyarrow.parquet as pq

    columns = ["concept", "group", "subgroup", "name_en", "name_zh", "tags_en", "tags_zh"]
    path, first = _checked(DATA_DIR / "emoji_64.parquet"), [("style", "=", FIRST_STYLES[0])]  # it has every concept
    return tuple(pq.read_table(path, columns=columns, filters=first).to_pylist())


def one_of(what: str, given: Iterable, known: Iterable) -> None:
    """DataError unless everything given is known, and something is given; `what` is the word for it."""
    unknown = [value for value in given if value not in tuple(known)]
    if unknown or not given:
        raise DataError(
            f"Unknown {what} {unknown[0] if unknown else '(none given)'!r}: choose from {', '.join(map(str, known))}."
        )


@lru_cache(maxsize=2 * len(STYLES))  # two sizes of every style; a style at 64 × 64 is 17 MB
def _load_style(folder: Path, size: int, style: str) -> Emoji:
    table, files = read_table(folder / f"emoji_{SIZES[size]}.parquet", ("style", "=", style))
    rows = table.drop_columns(["image", "id", "size"]).to_pylist()
    return Emoji(np.stack([decode(file, size) for file in files]), tuple(rows))


@lru_cache(maxsize=2)
def load_scenes(size: int = 64) -> dict[str, np.ndarray]:
    """The painted backgrounds: scene name -> uint8 (variants, size, size, 3). Built in notebook 01."""
    one_of("size", (size,), SIZES)
    table, files = read_table(DATA_DIR / "scenes_256.parquet")
    names = np.array(table["scene"].to_pylist())
    pictures = np.stack([decode(file, size)[..., :3] for file in files])
    return {str(name): pictures[names == name] for name in dict.fromkeys(names)}


def read_table(path: Path, only: tuple | None = None) -> tuple[pyarrow.Table, list[bytes]]:
    """A Parquet file, checked, its rows filtered by (column, "=", value), and its encoded pictures; or DataError."""
    import pyarrow.parquet as pq

    table = pq.read_table(_checked(path), filters=[only] if only else None)
    return table, table["image"].combine_chunks().field("bytes").to_pylist()


def decode(file: bytes, size: int) -> np.ndarray:
    """One stored picture as uint8 (size, size, 4)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(file), formats=["WEBP"]).convert("RGBA")
    if picture.width != size:
        # Pillow premultiplies RGBA before it resizes, so invisible pixels do not darken the edges.
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, C) in 0..255 -> float32 tensor (N, C, H, W) in [-1, 1], the range every model here works in.

    Built in notebook 01.
    """
    import torch

    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise DataError(f"to_tensor wants uint8 pictures (N, H, W, C); these are {pictures.dtype} {pictures.shape}.")
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """Tensor (N, C, H, W) in [-1, 1] -> uint8 (N, H, W, C), values outside clipped: the exact inverse of `to_tensor`.

    Built in notebook 01.
    """
    if x.ndim != 4:
        raise DataError(f"to_uint8 wants a batch (N, C, H, W); this has shape {tuple(x.shape)}.")
    pixels = ((x.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
