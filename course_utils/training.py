"""The training loop of the whole course: a wall-clock budget, a moving average of the weights, safe to interrupt.

It never plots or prints: it yields its state after every step, and whoever calls shows what they like.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from course_utils.checkpoints import CheckpointError, locked, write_atomically
from course_utils.devices import best_device, is_out_of_memory


@dataclass(frozen=True)
class Recipe:
    """All there is to say about a checkpoint: network, data, loss and a few numbers.

    model() -> network; batch(generator, n) -> dict of tensors with a first axis of n;
    loss(network, batch, generator) -> scalar. Both draw from the generator only, so a step can be repeated.
    """

    name: str
    summary: str
    model: Callable[[], torch.nn.Module]
    batch: Callable[[torch.Generator, int], dict]
    loss: Callable[[torch.nn.Module, dict, torch.Generator], torch.Tensor]
    batch_size: int
    lr: float
    ema_decay: float = 0.999  # averages about the last thousand steps
    weight_decay: float = 0.0
    need: float = 1.0  # its share of the time of `course train --all`


@dataclass
class TrainState:
    """Where training stands after a step; loss is smoothed over about 50 steps, `ema` is what to draw with."""

    step: int
    loss: float
    pictures: int
    seconds: float
    budget: float  # seconds in all
    pictures_per_s: float
    lr: float
    model: torch.nn.Module
    ema: torch.nn.Module

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.budget - self.seconds)


def learning_rate(fraction: float, lr: float) -> float:
    """Return the rate at a fraction 0 ... 1 of the budget: constant, then straight to zero in the last fifth."""
    return lr * min(1.0, max(0.0, 1 - fraction) / 0.2)


class EMA:
    """A moving average of a network's weights, which draws better than the weights of any one moment.

    decay ramps up as (1 + n) / (10 + n), so that the random start is forgotten early. DDPM, appendix B.
    """

    def __init__(self, model, decay=0.999):
        import copy

        self.model, self.decay, self.updates = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


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


def load_run(path, model, ema, optimizer) -> dict:
    """Bring a saved run back into model, ema and optimizer; return its progress (step, seconds, ...)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be resumed ({error}): delete it and train anew") from None
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
    ema.updates = progress["updates"]
    return progress


def shared_clock(accelerator, seconds: float) -> float:
    """Return the main process's seconds, so that all processes stop after the same step."""
    if accelerator.num_processes == 1:
        return seconds
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([seconds], device=accelerator.device, dtype=torch.float32)))


def start(device):
    """Return an Accelerator for the device: one process here, or as many as `accelerate launch` started."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()  # a notebook may train twice, on two devices
    PartialState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if device.type == "cuda" else "no")


def train_step(accelerator, recipe, model, optimizer, generator, batch_size):
    """Take one step on one batch and return (loss, pictures seen); on out-of-memory halve the batch and say so."""
    import warnings

    while True:
        try:
            batch = {k: v.to(accelerator.device) for k, v in recipe.batch(generator, batch_size).items()}
            loss = recipe.loss(model, batch, generator)
            accelerator.backward(loss)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch_size < 2:
                raise
        batch_size //= 2
        optimizer.zero_grad()
        warnings.warn(f"out of memory: going on with batches of {batch_size}", stacklevel=2)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # DDPM's clip: a rare bad batch cannot wreck the weights
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), batch_size


def train(
    recipe, minutes, seed=0, resume=False, run_dir=None, device=None, save_every=30.0
) -> Iterator[TrainState]:
    """Train a recipe for some minutes of wall-clock time and yield a TrainState after every step.

    minutes: the whole budget, what a resumed run has used already included; run_dir: where the run is saved every
    save_every seconds and at the end, also after Ctrl-C (None: nowhere). Raises ValueError for minutes <= 0,
    CheckpointError when there is nothing whole to resume, or when the disk is full. Built in notebook 02.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be more than 0, not {minutes!r}")
    accelerator = start(best_device() if device is None else torch.device(device))
    torch.manual_seed(seed)
    network = recipe.model().to(accelerator.device)
    ema = EMA(network, recipe.ema_decay)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    path = Path(run_dir) / f"{recipe.name}.run.safetensors" if run_dir else None
    progress = {"step": 0, "seconds": 0.0, "pictures": 0, "loss": 0.0, "updates": 0}
    if resume:
        if path is None or not path.exists():
            raise CheckpointError(f"there is no run of {recipe.name!r} to resume: train it without --resume first")
        progress = load_run(path, network, ema, optimizer)
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()

    budget, batch_size, began = 60.0 * minutes, recipe.batch_size, time.monotonic() - progress["seconds"]
    saved, seen_here, began_here = time.monotonic(), 0, time.monotonic()

    def save():
        if path is not None and accelerator.is_main_process:
            save_run(path, network, ema, optimizer.optimizer, progress)

    try:
        while (seconds := shared_clock(accelerator, time.monotonic() - began)) < budget:
            lr = learning_rate(seconds / budget, recipe.lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            step = progress["step"]
            part = (seed * 1_000_003 + step) * accelerator.num_processes + accelerator.process_index
            loss, batch_size = train_step(
                accelerator, recipe, model, optimizer, torch.Generator().manual_seed(part), batch_size
            )
            ema.update(network)
            seen = batch_size * accelerator.num_processes
            seen_here += seen
            smooth = min(0.98, step / (step + 1))  # a plain mean first, then over about 50 steps
            progress = {
                "step": step + 1, "seconds": time.monotonic() - began, "pictures": progress["pictures"] + seen,
                "loss": smooth * progress["loss"] + (1 - smooth) * float(loss), "updates": ema.updates,
            }  # fmt: skip
            yield TrainState(
                step + 1, progress["loss"], progress["pictures"], progress["seconds"], budget,
                seen_here / (time.monotonic() - began_here), lr, network, ema.model,
            )  # fmt: skip
            if time.monotonic() - saved >= save_every:
                save()
                saved = time.monotonic()
    finally:  # the budget is used up, or someone pressed Ctrl-C, or closed the loop early
        save()
