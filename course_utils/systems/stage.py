"""What all systems share: pictures for prompts, painted in one stage or in several.

    noise ──► stage 1: model + sampler, decode ──► stage 2, which sees what stage 1 made ──► … ──► pictures in [-1, 1]

Stable Diffusion is one stage; a cascade (picture, larger picture) or a prior before a decoder are several.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from course_utils.data import to_uint8
from course_utils.devices import halve_on_oom
from course_utils.errors import GUIDANCE, SEED, STEPS, InputError, PromptWarning, integer, number, prompt_list
from course_utils.generator.objectives import Model
from course_utils.generator.samplers import State

if TYPE_CHECKING:  # a system without prompts needs no words
    from course_utils.systems.reading import Reader

BATCH = 16  # pictures at a time: keeps memory small, and costs no speed on a CPU


@dataclass(frozen=True)
class StageState(State):
    """A sampler's State that knows its stage; `step` of `total` counts over all stages, so a bar can show them."""

    stage: str
    total: int


@dataclass(frozen=True)
class Stage:
    """One walk from noise.

    shape: of one item's noise; model(prompts, guidance, negative, before): the conditioned model for N prompts, where
    negative is None, one or N, and `before` what the stage before made (None for the first); sampler(model, xT, steps)
    yields States; decode: makes of the last xt what the next stage, or the eye, gets (None: it is that already);
    steps: a number of its own (None: what is asked).
    """

    name: str
    shape: tuple[int, ...]
    model: Callable[[list, float, list[str] | None, torch.Tensor | None], Model]
    sampler: Callable[[Model, torch.Tensor, int], Iterator[State]]
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None
    steps: int | None = None


@dataclass(frozen=True)
class System:
    """Stages one after the other, on one device; steps and guidance: how it draws when nothing is said.

    reader: brings prompts to the words the system was shown, and tells which it was not (None: they stay as they are).
    """

    stages: tuple[Stage, ...]
    device: torch.device
    steps: int
    guidance: float
    prompted: bool = True
    reader: Reader | None = None

    def generate(
        self,
        prompts: str | Sequence[str | None],
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Sequence[str] | None = None,
        first: int = 0,
    ) -> Iterator[StageState]:
        """Yield the states of all stages, and last one whose xt are the pictures (N, 3, H, W) in [-1, 1].

        prompts: one or N (None each where the system takes none); seed 0..2**32-1, steps 1..1000 and guidance 0..20
        (None: the system's own); negative: one prompt to move away from, or N. The i-th picture starts from the seed's
        noise number `first` + i, so large numbers of prompts can be cut into batches. Raises InputError for what is no
        text or out of range; a PromptWarning names words that the system was never shown.
        """
        prompts, negative = self.read(prompts, negative)
        yield from self._states(prompts, seed, steps, guidance, negative, first)

    @torch.inference_mode()
    def _states(self, prompts, seed, steps, guidance, negative, first) -> Iterator[StageState]:
        """The states of `generate`, for prompts that are read already."""
        seed, steps = integer("seed", seed, SEED), integer("steps", self.steps if steps is None else steps, STEPS)
        guidance = number("guidance", self.guidance if guidance is None else guidance, GUIDANCE)
        total, done, made = sum(stage.steps or steps for stage in self.stages), 0, None
        for index, stage in enumerate(self.stages):
            xT = start_noise(seed, len(prompts), stage.shape, first, index).to(self.device)
            model, count = stage.model(prompts, guidance, negative, made), stage.steps or steps
            for state in stage.sampler(model, xT, count):
                yield StageState(done + state.step, state.t, state.xt, state.x0, stage.name, total)
            done, made = done + count, stage.decode(state.xt) if stage.decode else state.xt
        yield StageState(total, state.t, made, made, stage.name, total)

    def draw(
        self,
        prompts: str | Sequence[str | None],
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Run `generate` to its end in batches that fit the memory: uint8 (N, H, W, 3).

        progress(done, total): called after every step of every batch.
        """
        prompts, negative = self.read(prompts, negative)
        report = progress or (lambda done, total: None)

        def run(batch: int) -> torch.Tensor:
            starts, pictures = range(0, len(prompts), batch), []
            for done, i in enumerate(starts):
                away = negative[i : i + batch] if negative and len(negative) > 1 else negative
                for state in self._states(prompts[i : i + batch], seed, steps, guidance, away, i):
                    report(done * state.total + state.step, len(starts) * state.total)
                pictures.append(state.xt)
            return torch.cat(pictures)

        return to_uint8(halve_on_oom(run, min(BATCH, len(prompts))))

    def read(self, prompts: object, negative: object) -> tuple[list, list[str] | None]:
        """The texts as the system reads them; one PromptWarning tells what it was never shown in them."""
        prompts, negative = self.texts(prompts, negative)
        if self.reader is None:
            return prompts, negative
        if note := self.reader.note([*prompts, *(negative or [])]):
            warnings.warn(note, PromptWarning, stacklevel=3)
        away = None if negative is None else [self.reader.plain(text) for text in negative]
        return [self.reader.plain(text) for text in prompts], away

    def texts(self, prompts: object, negative: object) -> tuple[list, list[str] | None]:
        """The N prompts, and None, one or N negative ones; InputError for what is no text, or for too many."""
        if self.prompted:
            prompts = prompt_list(prompts)
        else:
            prompts = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise InputError("give at least one prompt, or None for each picture where the system takes none")
        if negative is not None:
            negative = prompt_list(negative, what="negative prompt")
            prompt_list(negative, len(prompts), "negative prompt")  # are they one, or as many?
        return prompts, negative


def spread(what: str, x: torch.Tensor, count: int) -> torch.Tensor:
    """One item (1, ...) for all of a batch, (count, ...), or the count that are there; InputError for other numbers."""
    if len(x) not in (1, count):
        raise InputError(f"give one or {count} of the {what}, as many as there are pictures to draw, not {len(x)}")
    return x.expand(count, *x.shape[1:])


def start_noise(seed: int, count: int, shape: tuple[int, ...], first: int = 0, stage: int = 0) -> torch.Tensor:
    """Gaussian noise (count, *shape), drawn one by one: item i of a seed is the same for every count and device.

    first: the number of the first one; stage: other stages get noise of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    if stage:
        generator.manual_seed(int(torch.randint(2**32, (stage,), generator=generator)[-1]))
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(first + count)][first:])
