"""Latents made once and kept: the autoencoder need not look at the same pictures in every round of training."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from course_utils import checkpoints
from course_utils.data import DATA_DIR, to_tensor
from course_utils.errors import CheckpointError

BATCH = 64  # pictures encoded at a time


@torch.inference_mode()
def encode_all(vae, images, device="cpu", progress=None):
    """Return mean and standard deviation of the latents of pictures uint8 (N, H, W, 3): two (N, C, h, w), float16.

    progress(done, total): called after every batch. Built in notebook 06.
    """
    means, stds = [], []
    for i in range(0, len(images), BATCH):
        gaussian = vae.encode(to_tensor(images[i : i + BATCH]).to(device))
        means.append(gaussian.mean.half().cpu())
        stds.append((gaussian.logvar / 2).exp().half().cpu())
        if progress:
            progress(min(i + BATCH, len(images)), len(images))
    return torch.cat(means), torch.cat(stds)


def digest(*parts) -> str:
    """Return 16 hexadecimal digits that stand for arrays, and for values with a repr of their own, in their order."""
    total = hashlib.sha256()
    for part in parts:
        array = isinstance(part, np.ndarray)
        total.update(repr((part.dtype.str, part.shape) if array else part).encode())
        if array:
            total.update(np.ascontiguousarray(part))
    return total.hexdigest()[:16]


def folders() -> Iterator[Path]:
    """The folders to keep tensors in: beside the data, and one of this user's own where that cannot be written."""
    yield DATA_DIR / "cache"
    yield Path(tempfile.gettempdir()) / f"course-cache-{getattr(os, 'getuid', int)()}"  # no user numbers on Windows


def cached(name: str, source: str, make: Callable[[], dict]) -> dict[str, torch.Tensor]:
    """Return the tensors {name: (N, ...)} that make() gives, from a file when they were made before.

    source: the `digest` of all that they are made from, such as the pictures and the autoencoder's sha256. The file
    bears it, so nothing is ever taken for something else. A file that cannot be read is made anew; where none can be
    written, the tensors live as long as the process.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    file = f"{name}-{source}.safetensors"
    for folder in folders():
        with contextlib.suppress(SafetensorError, OSError):
            return load_file(folder / file)
    tensors = make()
    for folder in folders():
        with contextlib.suppress(SafetensorError, OSError, CheckpointError):  # the last for a full disk
            checkpoints.write_atomically(folder / file, lambda temporary: save_file(tensors, temporary))
            break
    return tensors
