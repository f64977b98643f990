"""The training loop of the whole course: a wall-clock budget, a moving average of the weights, safe to interrupt.

It never plots or prints: it yields its state after every step, and whoever calls shows what they like.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from course_utils.devices import autocast, best_device, halve_on_oom
from course_utils.errors import CheckpointError, CourseError
from course_utils.prefetch import Batches, dead_workers_named
from course_utils.runs import load_run, save_run

READ_EVERY = 20  # steps between looks at a GPU's loss: each look makes the CPU wait for it
POINT_EVERY = 300.0  # seconds between points of the learning curve
FAILURES = 3  # steps in a row without a finite loss or gradient: the next ones would not be better


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
    weight_decay: float = 0.0  # of matrices and kernels; biases, gains and the temperature keep theirs
    time_share: float = 1.0  # of `course train --all`, relative to the others
    requires: tuple[str, ...] = ()  # names of the checkpoints it builds on: they are trained before it
    decay: float = 0.2  # the last part of the budget, in which the rate falls to zero
    faster: dict[str, float] = field(default_factory=dict)  # part of a parameter's name -> how many times the rate
    warmup: int = 0  # steps in which the rate rises from zero: at the full rate a contrastive loss can die at once
    measure: Callable[[torch.nn.Module], dict] | None = None  # what its card says of the trained network besides
    lora: bool = False  # only the branches of a frozen network learn, and only they are shipped


@dataclass
class TrainState:
    """Where training stands after a step; loss is smoothed over about 50 steps, `ema` is what to draw with.

    On a GPU, loss and skipped may be as old as READ_EVERY steps.
    """

    step: int
    loss: float
    pictures: int
    seconds: float
    budget: float  # seconds in all
    pictures_per_s: float
    lr: float
    model: torch.nn.Module
    ema: torch.nn.Module
    skipped: int = 0  # steps without a finite loss or gradient
    before: dict | None = None  # what came before the first step, when it began with trained weights
    curve: list[dict] = field(default_factory=list)  # {"minutes", "pictures", "loss"} now and then; callers may add

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.budget - self.seconds)


class DivergedError(CourseError, ArithmeticError):
    """Training came apart; the message says when, and what to try."""


def learning_rate(fraction: float, lr: float, decay: float = 0.2) -> float:
    """Return the rate at a fraction 0 ... 1 of the budget: constant, then straight to zero in its last part."""
    return lr * min(1.0, max(0.0, 1 - fraction) / decay) if decay else lr


def parameter_groups(network, recipe) -> list[dict]:
    """Return a network's parameters as groups of equal rate and decay, as torch's optimizers take them."""
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in network.named_parameters():
        faster = next((times for part, times in recipe.faster.items() if part in name), 1.0)
        groups.setdefault((faster, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": groups[key], "faster": key[0], "weight_decay": key[1]} for key in sorted(groups, reverse=True)]


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
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")  # `devices.autocast` chooses the precision


class Tally:
    """The smoothed loss and the failed steps, counted on the device: to read them is to wait for it."""

    def __init__(self, device, loss=0.0, skipped=0):
        self.loss, self.skipped = torch.tensor(loss, device=device), torch.tensor(skipped, device=device)
        self.in_a_row = self.worst = torch.zeros_like(self.skipped)

    def add(self, loss, failed, smooth):
        """Count a step: its loss, and whether it failed (both tensors); smooth: the weight of the past."""
        self.loss = torch.where(failed, self.loss, smooth * self.loss + (1 - smooth) * loss)
        self.skipped = self.skipped + failed
        self.in_a_row = (self.in_a_row + 1) * failed
        self.worst = torch.maximum(self.worst, self.in_a_row)


class Run:
    """A network in training with all that belongs to it: what `train` steps, saves and resumes."""

    def __init__(self, recipe, seed, device, path, weights=None, before=None, workers=0):
        self.recipe, self.seed, self.path = recipe, seed, path
        self.accelerator = make_accelerator(device)
        torch.manual_seed(seed)
        self.network = recipe.model()
        if weights is not None:
            self.network.load_state_dict(weights)
        self.network.to(self.accelerator.device)
        self.ema, self.batch_size = EMA(self.network, recipe.ema_decay), recipe.batch_size
        self.batches = Batches(recipe.batch, self.seed_of, workers, pin=self.accelerator.device.type == "cuda")
        self.progress = {"step": 0, "seconds": 0.0, "pictures": 0, "loss": 0.0, "skipped": 0}
        self.progress |= {"before": before, "curve": []}
        self.diverged = False
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, recipe), recipe.lr, fused=True)

    def resume(self):
        """Go back to what was saved."""
        if self.path is None or not self.path.exists():
            raise CheckpointError(f"there is no run of {self.recipe.name!r} to resume: train it without --resume first")
        saved = load_run(self.path, self.network, self.ema, self.optimizer)
        self.progress |= {key: value for key, value in saved.items() if key in self.progress}

    def prepare(self):
        """Hand network and optimizer to accelerate, which spreads them over the devices."""
        self.model, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)
        self.model.train()
        self.tally = Tally(self.accelerator.device, self.progress["loss"], self.progress["skipped"])

    def close(self):
        """End the workers and save, unless training came apart: then what was saved before is the better state."""
        self.batches.close()
        if not self.diverged:
            self.save()

    def save(self):
        if self.path is not None and self.accelerator.is_main_process:
            self.read_tally()
            save_run(self.path, self.network, self.ema, self.optimizer.optimizer, self.progress)

    def add_point(self):
        """Note on the learning curve where training stands, every POINT_EVERY seconds and at the end."""
        p = self.progress
        if p["seconds"] >= p["budget"] or p["seconds"] // POINT_EVERY > len(p["curve"]):
            self.read_tally()
            minutes = round(p["seconds"] / 60, 1)
            p["curve"].append({"minutes": minutes, "pictures": p["pictures"], "loss": round(p["loss"], 4)})

    def read_tally(self):
        """Bring loss and failures into the progress; DivergedError after FAILURES failed steps in a row."""
        self.progress["loss"], self.progress["skipped"] = float(self.tally.loss), int(self.tally.skipped)
        if not self.diverged and int(self.tally.worst) >= FAILURES:
            self.diverged = True
            raise DivergedError(
                f"the training of {self.recipe.name!r} came apart by step {self.progress['step']}: {FAILURES} steps in "
                "a row had no finite loss or gradient. Try a lower rate (the recipe's lr), or COURSE_PRECISION=float32"
            )

    def seed_of(self, step) -> int:
        """A seed of its own for every step of every process: a resumed run sees what the unbroken one would."""
        return (self.seed * 1_000_003 + step) * self.accelerator.num_processes + self.accelerator.process_index

    def backward(self, n):
        """Leave the gradients of n of the step's pictures in the network; return (loss, n)."""
        self.optimizer.zero_grad()  # an attempt that ran out of memory may have left gradients behind
        batch, generator = self.batches.take(self.progress["step"], n)
        device = self.accelerator.device
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        with autocast(device):
            loss = self.recipe.loss(self.model, batch, generator)
        self.accelerator.backward(loss)
        return loss.detach().float(), n

    def step(self, lr) -> int:
        """Take one step at this rate and return how many pictures all processes saw."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["faster"]
        step, parts = self.progress["step"], self.accelerator.num_processes
        with dead_workers_named():
            loss, self.batch_size = halve_on_oom(self.backward, self.batch_size)
        # DDPM's clip: a rare bad batch cannot wreck the weights
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        failed = ~(norm.isfinite() & loss.isfinite())
        if parts > 1:  # they skip it together, or their weights would part
            failed = self.accelerator.reduce(failed.float(), "sum") > 0
        self.optimizer.optimizer.found_inf = failed.float()  # AdamW's own way to skip a step without waiting for a GPU
        self.optimizer.step()
        self.ema.update(self.network)
        self.tally.add(loss, failed, min(0.98, step / (step + 1)))  # a plain mean first, then over about 50 steps
        self.progress["step"] = step + 1
        self.progress["pictures"] += self.batch_size * parts
        if self.accelerator.device.type == "cpu" or (step + 1) % READ_EVERY == 0:
            self.read_tally()
        return self.batch_size * parts


def train(
    recipe,
    minutes,
    seed=0,
    resume=False,
    run_dir=None,
    device=None,
    save_every=30.0,
    weights=None,
    before=None,
    workers=0,
) -> Iterator[TrainState]:
    """Train a recipe for some minutes of wall-clock time and yield a TrainState after every step.

    minutes: the whole budget, what a resumed run has used already included; run_dir: where the run is saved every
    save_every seconds and at the end, also after Ctrl-C (None: nowhere); weights: a state dict to begin with (None:
    random); before: what is known of these weights' training, kept with the run; workers: processes that make the
    next batches meanwhile, which are the same with any number. Raises ValueError for minutes <= 0, CheckpointError when
    there is nothing whole to resume, or when the disk is full, DivergedError when three steps in a row have no finite
    loss or gradient; one or two are skipped. Built in notebook 02.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be more than 0, not {minutes!r}")
    path = Path(run_dir) / f"{recipe.name}.run.safetensors" if run_dir else None
    run = Run(recipe, seed, best_device() if device is None else torch.device(device), path, weights, before, workers)
    if resume:
        run.resume()
    run.prepare()
    progress, budget = run.progress, 60.0 * minutes
    progress["budget"] = budget
    began = time.monotonic() - progress["seconds"]
    saved = began_here = time.monotonic()
    seen_here = 0  # pictures of this session, for its speed: a resumed run may have begun on another machine
    try:
        while (seconds := shared_clock(run.accelerator, time.monotonic() - began)) < budget:
            warm = min(1.0, (progress["step"] + 1) / max(1, recipe.warmup))
            lr = warm * learning_rate(seconds / budget, recipe.lr, recipe.decay)
            seen_here += run.step(lr)
            progress["seconds"] = time.monotonic() - began
            run.add_point()
            speed = seen_here / (time.monotonic() - began_here)
            yield TrainState(**progress, pictures_per_s=speed, lr=lr, model=run.network, ema=run.ema.model)
            if time.monotonic() - saved >= save_every:
                run.save()
                saved = time.monotonic()
    finally:  # the budget is used up, or someone pressed Ctrl-C, or closed the loop early
        run.close()
