"""What a picture costs, module by module: measured while a system draws, so it holds for any that is put together.

prompts ──► text encoder ──► prior, U-Net, super-resolution, step by step ──► VAE decoder ──► pictures
                └───────────────────────── a probe for each ─────────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from course_utils.devices import synchronize
from course_utils.errors import integer
from course_utils.evaluation.intervals import Estimate, Mean
from course_utils.evaluation.memory import PeakMemory
from course_utils.systems.stage import BATCH, Stage, System

READING, WALKING, DECODING = "text encoder", "U-Net", "VAE decoder"  # the modules of one stage, in this order
WALKS = {"prior": "prior"} | {f"{side}x{side}": f"super-resolution, {side}" for side in (64, 256)}  # stage -> module
ALL = "all"  # the row of the whole system
PROMPT = "panda, noto style, night sky"  # every system was shown it


# ------------------------------------------------------------------ probes: what is asked of a module at work
class Weights(TorchFunctionMode):
    """Which parameters are used in a `with` block, {identity: how many numbers}: what is not asked is absent."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[int, int] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        self.used |= {id(leaf): leaf.numel() for leaf in leaves if isinstance(leaf, torch.nn.Parameter)}
        return function(*args, **(kwargs or {}))


class Clock:
    """The seconds of a `with` block, what waits on the device included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Self:
        synchronize(self.device)
        self.began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        synchronize(self.device)
        self.seconds = time.perf_counter() - self.began


class Operations(ExitStack):
    """The floating-point operations of a `with` block, of matrix products and convolutions: 2 for each product.

    Attention runs as plain matrix products meanwhile: the counter takes a CPU's fused one for free.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        self.counter = self.enter_context(FlopCounterMode(display=False))
        return self

    @property
    def flops(self) -> int:
        return self.counter.get_total_flops()


# ------------------------------------------------------------------ where they are put
def probed(stage: Stage, probe: Callable[[str], AbstractContextManager]) -> Stage:
    """The stage, drawing as ever, whose three modules run within probe(module), a walk's once for every step."""

    def model(*given):
        with probe(READING):
            return stage.model(*given)

    def sampler(*given) -> Iterator:
        states, done = stage.sampler(*given), object()
        while True:
            with probe(WALKS.get(stage.name, WALKING)):
                state = next(states, done)
            if state is done:
                return
            yield state

    def decode(x):
        with probe(WALKS.get(stage.name, DECODING)):  # only a U-Net's latents have a decoder of their own
            return stage.decode(x)

    return replace(stage, model=model, sampler=sampler, decode=decode if stage.decode else None)


def draw_with(system: System, make_probe: Callable, count: int = 1, steps: int | None = None) -> dict[str, list]:
    """Draw `count` pictures at once, and return module -> its probes, one for each time that it was at work.

    make_probe() -> a context manager that measures; the last row, ALL, holds that of the whole drawing.
    """
    found: dict[str, list] = {}

    @contextmanager
    def probe(module: str) -> Iterator[None]:
        with make_probe() as one:
            yield
        found.setdefault(module, []).append(one)

    watched = replace(system, stages=tuple(probed(stage, probe) for stage in system.stages))
    with make_probe() as whole:
        for _ in watched.generate([PROMPT if system.prompted else None] * count, steps=steps):
            pass
    return found | {ALL: [whole]}


def module_costs(
    system: System, batch: int = BATCH, repeats: int = 4, steps: int | None = None
) -> dict[str, dict[str, Estimate]]:
    """Return {module: what it costs a picture}, and a row of all together, as `evaluation.report.table` prints them.

    parameters: in millions, of those that are used; calls: how often it is at work for a picture, guidance's two halves
    in one; gflop_call, gflop: 10^9 operations, a call and a picture; seconds_picture: on this machine, of `batch`
    pictures drawn at once, the mean of `repeats` drawings with its interval; peak: megabytes (10^6 bytes) of the
    tensors that live at the worst moment while it draws one picture; its weights, 4 bytes a parameter, come on top.
    Modules without operations are left out, and count in the last row. steps: None for the system's own.
    """
    batch, repeats = integer("batch", batch, (1, 256)), integer("repeats", repeats, (1, 100))
    weights = draw_with(system, Weights, batch, steps=1)  # the first drawing also warms up
    work, memory = draw_with(system, Operations, steps=steps), draw_with(system, PeakMemory, steps=steps)
    clocks = [draw_with(system, partial(Clock, system.device), batch, steps) for _ in range(repeats)]
    rows = {}
    for module, probes in work.items():
        each = [operations.flops / 1e9 for operations in probes]
        if not sum(each):
            continue
        used = {key: count for one in weights[module] for key, count in one.used.items()}
        calls = sum(gflop > 0 for gflop in each)  # a walk's end is asked for once more
        rows[module] = {
            "parameters": Estimate(sum(used.values()) / 1e6),
            "calls": Estimate(calls),
            "gflop_call": Estimate(sum(each) / calls),
            "gflop": Estimate(sum(each)),
            "seconds_picture": Mean.of([sum(one.seconds for one in clock[module]) / batch for clock in clocks]),
            "peak": Estimate(max(one.peak for one in memory[module]) / 1e6),
        }
    for key in ("calls", "gflop_call"):
        del rows[ALL][key]
    return rows
