"""What all systems share: pictures for prompts, painted in one stage or in several.

    noise ──► stage 1: model + sampler, decode ──► stage 2, which sees what stage 1 made ──► … ──► pictures in [-1, 1]

Stable Diffusion is one stage; a cascade (picture, larger picture) or a prior before a decoder are several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from course_utils.data import to_uint8
from course_utils.devices import halve_on_oom
from course_utils.errors import InputError
from course_utils.generator.samplers import State

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (xt, t) -> prediction, as samplers want it
BATCH = 16  # pictures at a time: keeps memory small, and costs no speed on a CPU


@dataclass(frozen=True)
class StageState(State):
    """A sampler's State that knows its stage; `step` of `total` counts over all stages, so a bar can show them."""

    stage: str
    total: int


@dataclass(frozen=True)
class Stage:
    """One walk from noise.

    shape: of one item's noise; model(prompts, guidance, negative, before): the conditioned model, `before` being what
    the stage before made (None for the first); sampler(model, xT, steps) yields States; decode: makes of the last xt
    what the next stage, or the eye, gets (None: it is that already); steps: a number of its own (None: what is asked).
    """

    name: str
    shape: tuple[int, ...]
    model: Callable[[list, float, str | None, torch.Tensor | None], Model]
    sampler: Callable[[Model, torch.Tensor, int], Iterator[State]]
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None
    steps: int | None = None


@dataclass(frozen=True)
class System:
    """Stages one after the other, on one device; steps and guidance: how it draws when nothing is said."""

    stages: tuple[Stage, ...]
    device: torch.device
    steps: int
    guidance: float
    prompted: bool = True

    @torch.inference_mode()
    def generate(
        self,
        prompts: str | Sequence[str | None],
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        first: int = 0,
    ) -> Iterator[StageState]:
        """Yield the states of all stages, and last one whose xt are the pictures (N, 3, H, W) in [-1, 1].

        prompts: one or N (None each where the system takes none); the i-th picture starts from the seed's noise number
        `first` + i, so large numbers of prompts can be cut into batches. Raises InputError for what is no text.
        """
        prompts = self.check(prompts, negative)
        steps = self.steps if steps is None else steps
        guidance = self.guidance if guidance is None else guidance
        total, done, made = sum(stage.steps or steps for stage in self.stages), 0, None
        for number, stage in enumerate(self.stages):
            xT = start_noise(seed, len(prompts), stage.shape, first, number).to(self.device)
            model, count = stage.model(prompts, guidance, negative, made), stage.steps or steps
            for state in stage.sampler(model, xT, count):
                yield StageState(done + state.step, state.t, state.xt, state.x0, stage.name, total)
            done, made = done + count, stage.decode(state.xt) if stage.decode else state.xt
        yield StageState(total, state.t, made, made, stage.name, total)

    def draw(
        self,
        prompts: Sequence[str | None],
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Run `generate` to its end in batches that fit the memory: uint8 (N, H, W, 3).

        progress(done, total): called after every step of every batch.
        """
        report = progress or (lambda done, total: None)

        def run(batch: int) -> torch.Tensor:
            starts, pictures = range(0, len(prompts), batch), []
            for number, i in enumerate(starts):
                for state in self.generate(prompts[i : i + batch], seed, steps, guidance, negative, first=i):
                    report(number * state.total + state.step, len(starts) * state.total)
                pictures.append(state.xt)
            return torch.cat(pictures)

        return to_uint8(halve_on_oom(run, min(BATCH, len(prompts))))

    def check(self, prompts: str | Sequence[str | None], negative: str | None) -> list:
        """The prompts as a list; InputError for what is no text."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        wrong = [text for text in (*prompts, negative or "") if not isinstance(text, str)]
        if not prompts or self.prompted and wrong:
            raise InputError(
                f"a prompt is text in quotes, not {type(wrong[0]).__name__}" if wrong else "give at least one prompt"
            )
        return prompts


def start_noise(seed: int, count: int, shape: tuple[int, ...], first: int = 0, stage: int = 0) -> torch.Tensor:
    """Gaussian noise (count, *shape), drawn one by one: item i of a seed is the same for every count and device.

    first: the number of the first one; stage: other stages get noise of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    if stage:
        generator.manual_seed(int(torch.randint(2**32, (stage,), generator=generator)[-1]))
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(first + count)][first:])
