"""The training loop of the whole course: a wall-clock budget, a moving average of the weights, safe to interrupt.

It never plots or prints: it yields its state after every step, and whoever calls shows what they like.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from course_utils.checkpoints import CheckpointError
from course_utils.devices import best_device, halve_on_oom
from course_utils.runs import load_run, save_run


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
    time_share: float = 1.0  # of `course train --all`, relative to the others
    requires: tuple[str, ...] = ()  # names of the checkpoints it builds on: they are trained before it
    decay: float = 0.2  # the last part of the budget, in which the rate falls to zero
    lora: bool = False  # only the bypasses of a frozen network learn, and only they are shipped


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

    decay ramps up as (1 + n) / (10 + n) from 0, so that the random start is forgotten early. DDPM, appendix B.
    """

    def __init__(self, model, decay=0.999):
        self.model, self.decay, self.updates = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model):
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        self.updates += 1
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


def shared_clock(accelerator, seconds: float) -> float:
    """Return the main process's seconds, so that all processes stop after the same step."""
    if accelerator.num_processes == 1:
        return seconds
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([seconds], device=accelerator.device, dtype=torch.float32)))


def make_accelerator(device):
    """Return an Accelerator for the device: one process here, or as many as `accelerate launch` started."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()  # a notebook may train twice, on two devices
    PartialState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if device.type == "cuda" else "no")


def train_step(accelerator, recipe, model, optimizer, generator, batch_size):
    """Take one step on one batch and return (loss, pictures seen); on out-of-memory halve the batch and say so."""
    def backward(n):
        optimizer.zero_grad()  # an attempt that ran out of memory may have left gradients behind
        batch = {k: v.to(accelerator.device) for k, v in recipe.batch(generator, n).items()}
        loss = recipe.loss(model, batch, generator)
        accelerator.backward(loss)
        return loss.detach(), n

    result = halve_on_oom(backward, batch_size)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # DDPM's clip: a rare bad batch cannot wreck the weights
    optimizer.step()
    return result


class Run:
    """A network in training with all that belongs to it: what `train` steps, saves and resumes."""

    def __init__(self, recipe, seed, device, path, weights=None):
        self.recipe, self.seed, self.path = recipe, seed, path
        self.accelerator = make_accelerator(device)
        torch.manual_seed(seed)
        self.network = recipe.model()
        if weights is not None:
            self.network.load_state_dict(weights)
        self.network.to(self.accelerator.device)
        self.ema = EMA(self.network, recipe.ema_decay)
        self.batch_size = recipe.batch_size
        self.progress = {"step": 0, "seconds": 0.0, "pictures": 0, "loss": 0.0}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )

    def resume(self):
        """Go back to what was saved."""
        if self.path is None or not self.path.exists():
            raise CheckpointError(f"there is no run of {self.recipe.name!r} to resume: train it without --resume first")
        self.progress = load_run(self.path, self.network, self.ema, self.optimizer)

    def prepare(self):
        """Hand network and optimizer to accelerate, which spreads them over the devices."""
        self.model, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)
        self.model.train()

    def save(self):
        if self.path is not None and self.accelerator.is_main_process:
            save_run(self.path, self.network, self.ema, self.optimizer.optimizer, self.progress)

    def step(self, lr) -> int:
        """Take one step at this rate and return how many pictures all processes saw."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        step, parts = self.progress["step"], self.accelerator.num_processes
        # every step of every process has a seed of its own, so a resumed run sees what the unbroken one would
        seed = (self.seed * 1_000_003 + step) * parts + self.accelerator.process_index
        generator = torch.Generator().manual_seed(seed)
        loss, self.batch_size = train_step(
            self.accelerator, self.recipe, self.model, self.optimizer, generator, self.batch_size
        )
        self.ema.update(self.network)
        smooth = min(0.98, step / (step + 1))  # a plain mean first, then over about 50 steps
        seen = self.batch_size * parts
        self.progress["step"] = step + 1
        self.progress["pictures"] += seen
        self.progress["loss"] = smooth * self.progress["loss"] + (1 - smooth) * float(loss)
        return seen


def train(
    recipe, minutes, seed=0, resume=False, run_dir=None, device=None, save_every=30.0, weights=None,
) -> Iterator[TrainState]:  # fmt: skip
    """Train a recipe for some minutes of wall-clock time and yield a TrainState after every step.

    minutes: the whole budget, what a resumed run has used already included; run_dir: where the run is saved every
    save_every seconds and at the end, also after Ctrl-C (None: nowhere); weights: a state dict to begin with (None:
    random). Raises ValueError for minutes <= 0,
    CheckpointError when there is nothing whole to resume, or when the disk is full. Built in notebook 02.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be more than 0, not {minutes!r}")
    path = Path(run_dir) / f"{recipe.name}.run.safetensors" if run_dir else None
    run = Run(recipe, seed, best_device() if device is None else torch.device(device), path, weights)
    if resume:
        run.resume()
    run.prepare()
    progress, budget = run.progress, 60.0 * minutes
    began = time.monotonic() - progress["seconds"]
    saved = began_here = time.monotonic()
    seen_here = 0
    try:
        while (seconds := shared_clock(run.accelerator, time.monotonic() - began)) < budget:
            lr = learning_rate(seconds / budget, recipe.lr)
            seen_here += run.step(lr)
            progress["seconds"] = time.monotonic() - began
            speed = seen_here / (time.monotonic() - began_here)
            yield TrainState(
                progress["step"], progress["loss"], progress["pictures"], progress["seconds"], budget, speed, lr,
                run.network, run.ema.model,
            )  # fmt: skip
            if time.monotonic() - saved >= save_every:
                run.save()
                saved = time.monotonic()
    finally:  # the budget is used up, or someone pressed Ctrl-C, or closed the loop early
        run.save()
