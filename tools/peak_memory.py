"""How many bytes of tensors are alive at the worst moment of a computation, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Tracker(TorchDispatchMode):
    """Counts the storages of all results while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.alive -= size


def peak_bytes(run: Callable[[], Any]) -> int:
    """Run something and return the largest sum of bytes of the tensors that it made.

    Scratch memory inside an operation is not counted. Repeatable to the byte.
    """
    with _Tracker() as tracker:
        run()
    return tracker.peak
