"""Latents made once and kept: the autoencoder need not look at the same pictures in every round of training."""

from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import DATA_DIR, to_tensor

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


def cached(name, vae_name, make):
    """Return the tensors {name: (N, ...)} that make() gives, from a file beside the data when it was made before.

    The file bears the digest of the autoencoder's checkpoint: another one's latents are never mixed in. A file that
    cannot be read is made anew.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    digest = checkpoints.card(vae_name)["sha256"][:12]
    path = DATA_DIR / "cache" / f"{name}-{digest}.safetensors"
    if path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            path.unlink(missing_ok=True)
    tensors = make()
    checkpoints.write_atomically(path, lambda temporary: save_file(tensors, Path(temporary)))
    return tensors
