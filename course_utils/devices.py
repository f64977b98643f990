"""Where the arithmetic happens: device, precision, memory and seeds in one place."""

import contextlib
import os
import platform
import random
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


def best_device(name: str | None = None) -> torch.device:
    """Return the device to work on: the one asked for, else CUDA, else Apple's MPS, else the CPU.

    name: "cuda", "cuda:1", "mps", "cpu" or None; the environment variable COURSE_DEVICE stands in for None.
    Raises ValueError when that device is unknown or absent. Built in notebook 00.
    """
    name = name or os.environ.get("COURSE_DEVICE")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind, here in present.items() if here))
    kind = str(name).split(":")[0]
    if kind not in present:
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join(present)}")
    if not present[kind]:
        here = ", ".join(k for k, yes in present.items() if yes)
        raise ValueError(f"this machine has no {kind} device: use one of {here}, or leave the device out")
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch, and return a seeded CPU generator to pass to samplers.

    seed: an integer 0 <= seed < 2**32. Noise is always drawn on the CPU, so a seed gives the same
    picture on every device. Raises ValueError out of that range. Built in notebook 00.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be a whole number from 0 to 2**32 - 1, not {seed!r}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Return the precision context of a device: bfloat16 on CUDA, float32 elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()  # on most laptop CPUs bfloat16 is emulated, hence slower


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queue, so that a clock read afterwards is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_report(device: torch.device) -> dict[str, float]:
    """Return memory in GiB: {"total_gb", "free_gb", "process_gb"} of the device (of the machine for CPU, MPS)."""
    import psutil

    process = psutil.Process().memory_info().rss
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        process = torch.cuda.memory_reserved(device)
    else:
        machine = psutil.virtual_memory()
        free, total = machine.available, machine.total
    gib = 2.0**30
    return {"total_gb": total / gib, "free_gb": free / gib, "process_gb": process / gib}


def describe(device: torch.device | None = None) -> str:
    """Return a short name of the hardware, such as "2-core CPU" or "NVIDIA H200", for a checkpoint's card."""
    device = device or best_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores}-core {platform.machine()} CPU" if device.type == "cpu" else "Apple GPU (MPS)"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out, on any device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower()


def halve_on_oom(work: Callable[[int], Result], batch_size: int, min_batch: int = 1) -> Result:
    """Return work(batch_size); each time memory runs out, say so and try again with half the batch.

    Raises the memory error itself when even min_batch does not fit.
    """
    while True:
        try:
            return work(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size // 2 < min_batch:
                raise
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(f"out of memory: trying again with batches of {batch_size}", stacklevel=2)
