"""How much memory a computation takes at its worst: counted, so that it is the same on every machine and device."""

from __future__ import annotations

import weakref
from typing import Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that come to life in a `with` block: `peak` is the most at any one time.

    What was there before, such as the weights of a network, is not counted, nor is what an operation needs only
    inside. Built in notebook 13.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()  # storages that are counted, as long as they live

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [storage for storage in map(_storage, tree_leaves((args, kwargs))) if storage is not None]
        out = function(*args, **kwargs)
        for storage in map(_storage, tree_leaves(out)):
            view = any(storage is other for other in given)  # of a weight, say, that was there before
            if storage is not None and not view and storage not in self._known:
                self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def _storage(leaf: object) -> torch.UntypedStorage | None:
    """The storage of a tensor that lies in memory; None for anything else."""
    return leaf.untyped_storage() if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta" else None
