"""A run of training on disk: one safetensors file, written whole or not at all, that holds all it takes to go on."""

import json

import torch

from course_utils.checkpoints import locked, not_finite, write_atomically
from course_utils.errors import CheckpointError


def save_run(path, model, ema, optimizer, progress) -> None:
    """Write everything a run needs to go on into one safetensors file, at once or not at all."""
    from safetensors.torch import save_file

    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.model.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with locked(path):
        write_atomically(path, lambda t: save_file(tensors, t, metadata={"progress": json.dumps(progress)}))


def progress_in(file) -> dict:
    """Return the progress that an opened run bears. Raises KeyError, TypeError or ValueError where it bears none."""
    progress = json.loads(file.metadata()["progress"])
    if not isinstance(progress, dict) or not all(
        isinstance(progress.get(k), (int, float)) for k in ("step", "seconds")
    ):
        raise ValueError("it says of no step where it stopped")
    return progress


def read_progress(path) -> dict:
    """Return the progress of a saved run (step, seconds, budget, ...), {} when there is none to read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return progress_in(file)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return {}


def averaged_weights(path) -> dict[str, torch.Tensor]:
    """Return the averaged weights of a saved run, as `load_state_dict` takes them."""
    from safetensors.torch import load_file

    return {key.removeprefix("ema."): value for key, value in load_file(path).items() if key.startswith("ema.")}


def load_run(path, model, ema, optimizer) -> dict:
    """Bring a saved run back into model, ema and optimizer; return its progress (step, seconds, ...)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            progress = progress_in(file)
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be resumed ({error}): delete it and train anew") from None
    if broken := not_finite(tensors):
        raise CheckpointError(f"{path} holds NaN or infinity, in {broken}: delete it and train anew")
    part = {p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in ("model.", "ema.")}
    try:
        model.load_state_dict(part["model."])
        ema.model.load_state_dict(part["ema."])
    except RuntimeError:
        raise CheckpointError(f"{path} is a run of another network: delete it and train anew") from None
    moments: dict = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    ema.updates = progress["step"]  # one update a step
    return progress
