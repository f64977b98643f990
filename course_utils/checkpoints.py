"""Saving and loading weights: safetensors with a JSON card, whole or not at all, and checked on the way back."""

import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from course_utils.data import DATA_DIR, is_lfs_pointer
from course_utils.errors import CheckpointError

CHECKPOINT_DIR = DATA_DIR / "checkpoints"
TEXTS = ("name", "recipe", "sha256", "git_commit", "hardware", "history")  # what a card may hold: these as texts,
NUMBERS = ("parameters", "steps", "pictures", "seed", "minutes", "scaling_factor")  # and these as numbers
FIGURES = ("metrics", "cost", "side_by_side")  # and these as measured figures, {what: number, or {figure: number}}


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


def write_atomically(path: Path, write: Callable) -> None:
    """Let write(temporary path) make a file, then put it in place at once: a crash leaves the old one whole."""
    write_together({Path(path): write})


def write_together(writers: dict[Path, Callable]) -> None:
    """As `write_atomically`, for files that belong together: none is put in place before all are written."""
    ending = f".{secrets.token_hex(4)}.part"
    temporary = {path: f"{path}{ending}" for path in writers}
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "x") as file:  # not by tempfile, whose files are for their owner's eyes only
                mode = os.fstat(file.fileno()).st_mode
            write(temporary[path])
            os.chmod(temporary[path], mode)  # safetensors writes such files too
        for path in writers:
            os.replace(temporary[path], path)
    except Exception as error:
        if is_full_disk(error):
            raise CheckpointError(
                f"the disk is full: {path.name} was not saved, what was there before is untouched; "
                "free some space and save again"
            ) from error
        raise
    finally:
        for path in writers:
            Path(temporary[path]).unlink(missing_ok=True)


def save(name: str, weights, card: dict, dtype=torch.float16, folder=None) -> Path:
    """Save a network (or its state dict) as NAME.safetensors in half precision, with NAME.json beside it.

    card: what a reader wants to know (recipe, steps, minutes, hardware, metrics); sha256 and git commit are added.
    A tensor beyond half precision's range stays in float32. Returns the path. Raises CheckpointError for weights that
    are no finite numbers, on a full disk, or when another process holds the file.
    """
    from safetensors.torch import save_file

    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    state = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    if broken := not_finite(state):
        raise CheckpointError(
            f"{path.name} was not saved: {broken} holds NaN or infinity, so the training came apart; "
            "go back to an earlier state, and train at a lower rate"
        )
    state = {key: narrowed(value, dtype).contiguous().cpu() for key, value in state.items()}
    parameters = sum(v.numel() for v in state.values())
    full = {"name": name, "sha256": "", "git_commit": git_commit(), "parameters": parameters, **card}

    def write_weights(temporary):
        save_file(state, temporary)
        full["sha256"] = sha256(temporary)

    with locked(path):
        write_together({path: write_weights, path.with_suffix(".json"): card_writer(full)})
    return path


def not_finite(state: dict) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, None when there is none."""
    return next((key for key, value in state.items() if not value.isfinite().all()), None)


def narrowed(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in a narrower type, unless it is of integers, or too large for that type."""
    narrow = value.to(dtype) if value.is_floating_point() else value
    return narrow if narrow.isfinite().all() else value.float()


def write_card(path, card) -> None:
    """Write the card of the checkpoint at `path`."""
    write_atomically(path.with_suffix(".json"), card_writer(card))


def card_writer(card) -> Callable:
    """Return write(path), which writes a card as it is by then."""
    return lambda path: Path(path).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_metrics(name, metrics, folder=None, key="metrics") -> None:
    """Write measured figures, {what: number}, into the card of a checkpoint, beside those that it holds under a key.

    key: one of FIGURES.
    """
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    with locked(path):  # read and written in one go: another process's figures are not lost
        full = card(name, folder)
        full[key] = {**full.get(key, {}), **metrics}
        write_card(path, full)


def available(folder=None) -> list[str]:
    """Return the names of the checkpoints at hand, sorted."""
    return sorted(p.stem for p in Path(folder or CHECKPOINT_DIR).glob("*.safetensors"))


def card(name, folder=None) -> dict:
    """Return the card of a checkpoint. Raises CheckpointError when there is none, or when it is damaged."""
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.json"
    if not path.exists():
        known = ", ".join(available(folder))
        choice = f"choose one of {known}, or make it with" if known else "make it with"
        raise CheckpointError(f"there is no checkpoint {name!r}: {choice} `course train {name} --minutes 60`")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not is_card(found):
        raise CheckpointError(f"{path.name} is damaged: `git checkout -- data/checkpoints` brings it back")
    return found


def is_card(value: object) -> bool:
    """Is this a card: are what it says of the weights texts and finite numbers, where they should be?"""

    def number(x):
        return isinstance(x, (int, float)) and abs(x) < 1e300  # not NaN, nor an integer that is no float any more

    def interval(x):  # [low, high] of a figure
        return isinstance(x, list) and len(x) == 2 and all(map(number, x))

    if not isinstance(value, dict):
        return False
    parents, curve = value.get("parents", {}), value.get("curve", [])
    return (
        all(isinstance(value.get(key, ""), str) for key in TEXTS)
        and all(number(value.get(key, 0)) for key in NUMBERS)
        and isinstance(parents, dict)
        and all(isinstance(digest, str) for digest in parents.values())
        and isinstance(curve, list)
        and all(isinstance(point, dict) and all(map(number, point.values())) for point in curve)
        and all(isinstance(value.get(key, {}), dict) for key in FIGURES)
        and all(
            number(x) or isinstance(metric, dict) and interval(x)
            for key in FIGURES
            for metric in value.get(key, {}).values()
            for x in (metric.values() if isinstance(metric, dict) else (metric,))
        )
    )


def check(name, folder=None) -> Path:
    """Return the path of a checkpoint whose bytes are those its card promises, or raise CheckpointError."""
    promised = card(name, folder).get("sha256")
    path = Path(folder or CHECKPOINT_DIR) / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path.name} is missing: `git checkout -- data/checkpoints` brings it back")
    refuse_pointer(path)
    if sha256(path) != promised:
        raise CheckpointError(
            f"{path.name} is truncated or altered (its SHA-256 is not the card's): "
            "`git checkout -- data/checkpoints` brings it back"
        )
    return path


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError for a file that git-lfs has yet to fetch."""
    if is_lfs_pointer(path):
        raise CheckpointError(f"{path.name} is a git-LFS pointer, not the weights: `git lfs pull` fetches them")


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


def scaling_factor(folder=None, name: str = "vae") -> float:
    """Return what latents are multiplied by, 1 / their standard deviation: it is in the card of their autoencoder.

    Raises CheckpointError when the card does not say.
    """
    factor = card(name, folder).get("scaling_factor")
    if factor is None:
        raise CheckpointError(
            f"{name}.json has no scaling_factor, so nobody knows how large its latents are: train it anew, `course "
            f"train {name} --minutes 60 --replace`, or `git checkout -- data/checkpoints` brings the shipped ones back"
        )
    return factor


def parent_folder(name: str, parent: str, folder=None) -> Path:
    """Return the folder of the very checkpoint `parent` that the checkpoint `name` learned from or with.

    Looked for beside `name`, in `folder`, then among the shipped ones. A card without parents takes the first there is.
    Raises CheckpointError, which names both files, when what is there is another one than the card names.
    """
    promised = card(name, folder).get("parents", {}).get(parent)
    places = dict.fromkeys(Path(place or CHECKPOINT_DIR) for place in (folder, None))
    there = [place for place in places if parent in available(place)]
    found = [place for place in there if promised in (None, card(parent, place).get("sha256"))]
    if there and not found:
        raise CheckpointError(
            f"{Path(folder or CHECKPOINT_DIR) / name}.safetensors belongs to another {parent}.safetensors than "
            f"{there[0] / parent}.safetensors, so they do not fit: `course train {name} --minutes 60 --replace` makes "
            "it fit, or `git checkout -- data/checkpoints` brings the shipped ones back"
        )
    return (found or [CHECKPOINT_DIR])[0]  # where nothing is, opening it says so


def load(name, model, device=None, folder=None):
    """Fill a network with a checkpoint's weights and return it in eval mode, on the device.

    Raises CheckpointError when the checkpoint is unknown, damaged, holds NaN, or is made for another network.
    """
    from safetensors.torch import load_file

    path = check(name, folder)
    state = load_file(path)
    if broken := not_finite(state):
        raise CheckpointError(
            f"{path.name} holds NaN or infinity, in {broken}, and would draw nothing: train it anew, or "
            "`git checkout -- data/checkpoints` brings the shipped one back"
        )
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"checkpoint {name!r} was made for another network: {first}") from None
    return model.to(device or "cpu").eval()
