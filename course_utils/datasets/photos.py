"""A learner's own photos: each usable picture of a folder as a small square, and why the others are not used."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from course_utils.errors import InputError, integer, printable

SIZE = (16, 256)  # of the squares, in pixels a side
FORMATS = ("JPEG", "PNG", "WEBP")
SMALLEST = 64  # pixels a side of a photo: less would only be enlarged
MEGAPIXELS = 100  # a small file may claim any size; unpacked, this one already takes 300 MB
MEGABYTES = 100  # of a file
MOST_FILES = 500  # more is a whole collection, and minutes of work
LISTED = 10  # files that a report names
HEIC, AVIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), (b"avif", b"avis")
OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")  # and what begins with a dot


class _UnusableError(Exception):
    """One file cannot be used; the message says why, and what to do."""


@dataclass(frozen=True)
class Photos:
    """The pictures of a folder, in the order of their names: `pictures` is uint8 (N, S, S, 3), `names` N file names.

    skipped: (file name, reason) of each file that could not be used. Built in notebook 10.
    """

    pictures: np.ndarray
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    def report(self) -> str:
        """One line for the learner: "9 pictures; skipped 1: a.heic (HEIC: save it as JPEG)"."""
        count = f"{len(self)} picture{'s' * (len(self) != 1)}"
        return f"{count}; skipped {len(self.skipped)}: {_listed(self.skipped)}" if self.skipped else count


def load_photos(folder: str | Path, size: int = 64) -> Photos:
    """Every JPEG, PNG and WebP photo of a folder, upright, its middle square at size × size.

    size: 16 to 256. What the photos hold decides, not how their names end. Transparent parts become white; sub-folders
    are not entered. Raises InputError for a folder that is none, that is empty, or of which no picture can be used.
    Built in notebook 10.
    """
    size, folder = integer("size", size, SIZE), _existing(folder)
    pictures, names, skipped, seen = [], [], [], {}
    for path in _files(folder):
        name = printable(path.name)
        try:
            content = _content(path)
            digest = hashlib.sha256(content).digest()
            if digest in seen:
                raise _UnusableError(f"the same picture as {seen[digest]}")
            seen[digest] = name
            pictures.append(_square(content, size))
            names.append(name)
        except _UnusableError as reason:
            skipped.append((name, str(reason)))
    if not pictures:
        raise InputError(f"no file in {printable(str(folder))} can be used: {_listed(skipped)}")
    return Photos(np.stack(pictures), tuple(names), tuple(skipped))


def load_photo(path: str | Path, size: int = 64) -> np.ndarray:
    """One picture file as `load_photos` takes it, uint8 (1, size, size, 3); InputError tells why it cannot be used."""
    size, path = integer("size", size, SIZE), Path(os.path.expanduser(path))
    try:
        return _square(_content(path), size)[None]
    except _UnusableError as reason:
        raise InputError(f"{printable(str(path))} cannot be used: {reason}") from None


def _existing(folder: str | Path) -> Path:
    """The folder as a path, "~" resolved, if there is such a folder; else InputError."""
    if not isinstance(folder, (str, Path)) or not str(folder).strip():
        raise InputError(f'a folder is named by its path, such as "my_photos", not {folder!r}')
    path = Path(os.path.expanduser(folder))
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name no system could bear
        return path
    shown = printable(str(path))
    raise InputError(
        f"{shown} is a file: name the folder that holds it"
        if os.path.exists(path)
        else f"there is no folder {shown}: name the one that holds your photos"
    )


def _files(folder: Path) -> list[Path]:
    """What lies in the folder, by name, without the system's own files; InputError if that is nothing, or too much."""
    shown = printable(str(folder))
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.name.lower() not in OF_THE_SYSTEM
        )
    except OSError as error:
        raise InputError(f"the folder {shown} cannot be read: {error.strerror}") from error
    if not files:
        raise InputError(f"the folder {shown} is empty: put about a dozen JPEG, PNG or WebP photos into it")
    if len(files) > MOST_FILES:
        raise InputError(f"the folder {shown} holds {len(files)} files: copy the dozen to teach into one of their own")
    return files


def _content(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        if path.is_dir():
            raise _UnusableError("a folder: only the files beside it are read")
        if not path.is_file():  # to open a pipe would wait for ever
            raise _UnusableError("not a file, or a link to one that is gone")
        if path.stat().st_size > MEGABYTES * 1e6:
            raise _UnusableError(f"a file of {path.stat().st_size / 1e6:,.0f} MB: at most {MEGABYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise _UnusableError(f"cannot be read: {error.strerror}") from error


def _square(content: bytes, size: int) -> np.ndarray:
    """The picture in the bytes of a file as uint8 (size, size, 3)."""
    _check_kind(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and strange notes in them
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                _check_picture(picture)
                picture.draft(None, (4 * size, 4 * size))  # a large JPEG unpacks itself to about that size, fast
                picture.load()
                return np.asarray(ImageOps.fit(_rgb(_upright(picture)), (size, size), Image.Resampling.LANCZOS))
    except _UnusableError:
        raise
    except Image.DecompressionBombError:
        raise _UnusableError(f"more than {MEGAPIXELS} megapixels: save it smaller") from None
    except MemoryError:
        raise _UnusableError("too large for this machine's memory: save it smaller") from None
    except Exception as error:  # decoders meet broken bytes with errors of every kind
        raise _UnusableError("broken or cut off: copy or save it again") from error


def _check_kind(content: bytes) -> None:
    """_UnusableError unless the first bytes are those of a JPEG, PNG or WebP file."""
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    if not content:
        raise _UnusableError("an empty file")
    if brand in HEIC + AVIF:
        raise _UnusableError(f"{'AVIF' if brand in AVIF else 'HEIC'}: save it as JPEG")
    if content[:6] in (b"GIF87a", b"GIF89a"):
        raise _UnusableError("a GIF: save one picture of it as PNG")
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not webp and not content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise _UnusableError("not a JPEG, PNG or WebP picture")


def _check_picture(picture: Image.Image) -> None:
    """_UnusableError for an opened picture that moves, or whose size is out of range; nothing is unpacked yet."""
    if picture.format in ("PNG", "WEBP") and getattr(picture, "is_animated", False):
        raise _UnusableError("an animation: save one picture of it as PNG")
    width, height = picture.size
    if width * height > MEGAPIXELS * 1e6:
        raise _UnusableError(f"more than {MEGAPIXELS} megapixels: save it smaller")
    if min(width, height) < SMALLEST:
        raise _UnusableError(f"{width} x {height} pixels: at least {SMALLEST} a side are needed")


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF note says."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken note is no reason to lose the picture
        return picture


def _rgb(picture: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB, from any mode, on white where it is transparent."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, (0, 0), rgba)
    return canvas


def _listed(skipped: list | tuple) -> str:
    """Files with their reasons: a.txt (…), b.heic (…)."""
    more = f", and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
    return ", ".join(f"{name} ({reason})" for name, reason in skipped[:LISTED]) + more
