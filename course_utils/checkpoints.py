"""Saving and loading weights: safetensors with a JSON card, whole or not at all, and checked on the way back."""

import hashlib
import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

from course_utils.data import DATA_DIR

CHECKPOINT_DIR = DATA_DIR / "checkpoints"


class CheckpointError(RuntimeError):
    """Something is wrong with a checkpoint; the message says what, and what to do."""


def sha256(path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str:
    """Return the commit the course stands at, or "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextmanager
def locked(path: Path):
    """Hold the lock of a file, so that two processes never write it at once."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=30)  # a save takes a second: 30 s means trouble
    try:
        with lock:
            yield
    except Timeout:
        raise CheckpointError(
            f"another process has been writing {path.name} for 30 s: wait for it to end, then save again"
        ) from None


def is_full_disk(error: Exception) -> bool:
    """Did a full disk cause this error? safetensors wraps one in its own exception type, so its words count too."""
    return any(sign in str(error) for sign in ("No space left", "File too large")) or getattr(error, "errno", 0) == 28


def write_atomically(path: Path, write) -> None:
    """Let write(temporary path) make a file, then put it in place at once: a crash leaves the old one whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        write(temporary)
        os.replace(temporary, path)
    except Exception as error:
        if is_full_disk(error):
            raise CheckpointError(
                f"the disk is full: {path.name} was not saved, what was there before is untouched; "
                "free some space and save again"
            ) from error
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def save(name, weights, card, dtype=torch.float16, folder=None) -> Path:
    """Save a network (or its state dict) as NAME.safetensors in half precision, with NAME.json beside it.

    card: what a reader wants to know (recipe, steps, minutes, hardware, metrics); sha256 and git commit are added.
    Returns the path. Raises CheckpointError on a full disk or when another process holds the file.
    """
    from safetensors.torch import save_file

    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    with locked(path):
        write_atomically(path, lambda temporary: save_file(state, temporary))
        parameters = sum(v.numel() for v in state.values())
        full = {"name": name, "sha256": sha256(path), "git_commit": git_commit(), "parameters": parameters, **card}
        write_card(path, full)
    return path


def write_card(path, card) -> None:
    """Write the card of the checkpoint at `path`."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path.with_suffix(".json"), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def add_metrics(name, metrics, folder=None) -> None:
    """Write measured figures, {what: number}, into the card of a checkpoint, beside those that it holds."""
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    with locked(path):  # read and written in one go: another process's figures are not lost
        full = card(name, folder)
        full["metrics"] = {**full.get("metrics", {}), **metrics}
        write_card(path, full)


def available(folder=None) -> list[str]:
    """Return the names of the checkpoints at hand, sorted."""
    return sorted(p.stem for p in Path(folder or CHECKPOINT_DIR).glob("*.safetensors"))


def card(name, folder=None) -> dict:
    """Return the card of a checkpoint. Raises CheckpointError when there is none."""
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.json"
    if not path.exists():
        known = ", ".join(available(folder))
        choice = f"choose one of {known}, or make it with" if known else "make it with"
        raise CheckpointError(f"there is no checkpoint {name!r}: {choice} `course train {name} --minutes 60`")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"{path.name} is damaged: `git checkout -- data/checkpoints` brings it back") from None


def check(name, folder=None) -> Path:
    """Return the path of a checkpoint whose bytes are those its card promises, or raise CheckpointError."""
    promised = card(name, folder).get("sha256")
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path.name} is missing: `git checkout -- data/checkpoints` brings it back")
    if sha256(path) != promised:
        raise CheckpointError(
            f"{path.name} is truncated or altered (its SHA-256 is not the card's): "
            "`git checkout -- data/checkpoints` brings it back"
        )
    return path


def verify(folder=None) -> list[tuple[str, str]]:
    """Return (file, "ok" or one sentence that says what is wrong) for every checkpoint at hand."""
    folder = Path(folder or CHECKPOINT_DIR)
    names = sorted({p.stem for p in folder.glob("*.json")} | set(available(folder)))
    rows = []
    for name in names:
        try:
            rows.append((check(name, folder).name, "ok"))
        except CheckpointError as error:
            rows.append((f"{name}.safetensors", str(error)))
    return rows


def load(name, model, device=None, folder=None):
    """Fill a network with a checkpoint's weights and return it in eval mode, on the device.

    Raises CheckpointError when the checkpoint is unknown, damaged, or made for another network.
    """
    from safetensors.torch import load_file

    state = load_file(check(name, folder))
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"checkpoint {name!r} was made for another network: {first}") from None
    return model.to(device or "cpu").eval()
