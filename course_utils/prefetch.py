"""Batches made ahead in processes of their own, so that training need not wait for pictures to be composed.

A batch depends on its step's seed alone, so it is the same whoever makes it, and whenever.
"""

import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType

import torch
from torch.utils.data import DataLoader, Dataset

from course_utils.errors import CourseError

BatchMaker = Callable[[torch.Generator, int], dict]
START_METHOD = "fork" if sys.platform == "linux" else "spawn"  # fork starts at once and shares what is loaded
AHEAD = 4  # batches a worker makes ahead: enough for the odd slow one


def workers_for(device: torch.device, batch: BatchMaker) -> int:
    """How many workers suit a long training: one beside a CPU that computes, more beside a GPU that waits for them.

    0 where there is no second core, or where `batch` cannot be sent to another process, as one of a notebook's cell.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    spare = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1  # `accelerate launch` starts several processes
    if START_METHOD != "fork":
        try:
            pickle.dumps(batch)
        except (pickle.PicklingError, AttributeError, TypeError):
            return 0
        if batch.__module__ == "__main__":
            return 0
    return max(0, min(spare, 1 if device.type == "cpu" else 6))


def make(batch: BatchMaker, seed: int, n: int) -> tuple[dict, torch.Tensor]:
    """A batch of n, and the state in which it leaves its generator: the loss draws on from there."""
    generator = torch.Generator().manual_seed(seed)
    return batch(generator, n), generator.get_state()


class _BySeed(Dataset):
    """Batches by their seed; an error is handed over as it is, for the DataLoader would bury its sentence."""

    def __init__(self, batch: BatchMaker, n: int):
        self.batch, self.n = batch, n

    def __getitem__(self, seed: int) -> tuple[dict, torch.Tensor] | Exception:
        try:
            return make(self.batch, seed, self.n)
        except Exception as error:
            error.add_note("while a worker made a batch:\n" + traceback.format_exc())
            return error


def _end_quietly(worker: int) -> None:
    """In a worker: when training ends before its last batch is fetched, the broken connection is no news."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            show(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def _own_child_handler() -> Iterator[None]:
    """Undo PyTorch's handler of dead workers, which raises wherever the program stands: `take` finds them out too."""
    handled = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGCHLD) if handled else None
    yield
    if previous is not None:
        signal.signal(signal.SIGCHLD, previous)


class Batches:
    """The batch of each step. workers: processes that make the next ones meanwhile (0: each is made when asked for).

    seed_of(step) -> the seed of its generator; pin: hand over pinned memory, which a GPU fetches without waiting.
    """

    def __init__(self, batch: BatchMaker, seed_of: Callable[[int], int], workers: int = 0, pin: bool = False):
        self.batch, self.seed_of, self.workers, self.pin = batch, seed_of, workers, pin
        self.ahead: Iterator | None = None
        self.following: tuple[int, int] | None = None  # step and size of what comes next from the workers

    def take(self, step: int, n: int) -> tuple[dict, torch.Generator]:
        """The n examples of a step, and the generator as they leave it. Raises what making them raises."""
        if self.ahead is not None and self.following == (step, n):
            made = next(self.ahead)
        else:  # the first, or another size: made here, so that forked workers find the data loaded
            self.close()
            made = make(self.batch, self.seed_of(step), n)
            self.ahead = self._start(step + 1, n) if self.workers else None
        if isinstance(made, Exception):
            self.close()
            raise made
        self.following = step + 1, n
        generator = torch.Generator()
        generator.set_state(made[1])
        return made[0], generator

    def _start(self, step: int, n: int) -> Iterator:
        loader = DataLoader(
            _BySeed(self.batch, n),
            batch_size=None,
            sampler=map(self.seed_of, count(step)),
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            pin_memory=self.pin,
            multiprocessing_context=START_METHOD,
            worker_init_fn=_end_quietly,
            generator=torch.Generator(),  # for the seed it draws, which no batch uses: the global one must not move
        )
        with _own_child_handler():
            return iter(loader)

    def close(self) -> None:
        """End the workers."""
        self.ahead = self.following = None  # the iterator's end is theirs


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turn PyTorch's report of a worker that was killed into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise CourseError(
            "the process that makes the batches was ended from outside, most often because memory ran out: close "
            "other programs, and go on with --resume"
        ) from error
