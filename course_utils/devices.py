"""Where the arithmetic happens: device, precision and memory in one place."""

import contextlib
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from course_utils.errors import InputError

PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}

Result = TypeVar("Result")


def best_device(name: str | None = None) -> torch.device:
    """Return the device to work on: the one asked for, else CUDA, else Apple's MPS, else the CPU.

    name: "cuda", "cuda:1", "mps", "cpu" or None; the environment variable COURSE_DEVICE stands in for None.
    Raises InputError when that device is unknown or absent. Built in notebook 00.
    """
    name = name or os.environ.get("COURSE_DEVICE")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind, here in present.items() if here))
    kind = str(name).split(":")[0]
    if kind not in present:
        raise InputError(f"unknown device {name!r}: choose one of {', '.join(present)}")
    if not present[kind]:
        here = ", ".join(k for k, yes in present.items() if yes)
        raise InputError(f"this machine has no {kind} device: use one of {here}, or leave the device out")
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes bfloat16 itself; where it is emulated, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # absent from older versions of torch
    return device.type == "cpu" and any(capabilities().get(name) for name in ("amx_bf16", "avx512_bf16"))


def mixed_precision(device: torch.device) -> torch.dtype:
    """Return the type in which convolutions and linear layers train: bfloat16 where it is fast, else float32.

    The environment variable COURSE_PRECISION, bf16 or float32, decides instead; InputError for another value.
    """
    name = os.environ.get("COURSE_PRECISION")
    if name and name not in PRECISIONS:
        raise InputError(f"COURSE_PRECISION must be {' or '.join(PRECISIONS)}, not {name!r}")
    return PRECISIONS[name] if name else torch.bfloat16 if has_bfloat16(device) else torch.float32


class _Float32Attention(TorchFunctionMode):
    """Computes attention in float32 within autocast: on CPUs that is faster than in bfloat16."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention:
            return function(*args, **kwargs)

        def widen(x):
            return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

        with torch.autocast("cpu", enabled=False):
            return function(*map(widen, args), **{key: widen(x) for key, x in kwargs.items()})


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """Compute in the device's mixed precision: bfloat16 where `mixed_precision` says so, float32 elsewhere.

    Weights stay as they are; common losses, and on CPUs attention, are computed in float32.
    """
    if mixed_precision(device) == torch.float32:
        yield
        return
    attention = _Float32Attention() if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, torch.bfloat16), attention:
        yield


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
