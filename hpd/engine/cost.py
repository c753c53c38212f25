"""What a run takes: time, the selection's share of it, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from hpd.memory import peak_bytes
from hpd.typing import Selector

_Result = TypeVar("_Result")


class Cost:
    """The wall time of a run from here on, and of the selection in it.

    A run that goes on after an interruption counts from where it went on.

    Args:
        device: whose memory is told.
        clock: seconds since some moment.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._device, self._clock, self._started = device, clock, clock()
        self.selection_seconds = 0.0

    def selector(self, build: Callable[[], Selector]) -> Selector:
        """Return what `build` returns; its making and each of its scores are counted."""
        inner = self._counted(build)

        def selector(images: Tensor, labels: Tensor) -> float | None:
            return self._counted(lambda: inner(images, labels))

        return selector

    def _counted(self, work: Callable[[], _Result]) -> _Result:
        started = self._clock()
        try:
            return work()
        finally:
            self.selection_seconds += self._clock() - started

    def as_json(self) -> dict[str, float]:
        """Return seconds of the run so far, of its selection, and the share of the second.

        And `peak_bytes`, where the device tells: the most memory that the process had so far.
        """
        seconds, peak = self._clock() - self._started, peak_bytes(self._device)
        memory = {} if peak is None else {"peak_bytes": peak}
        return {
            "seconds": round(seconds, 2),
            "selection_seconds": round(self.selection_seconds, 2),
            "selection_share": round(self.selection_seconds / seconds, 4) if seconds else 0.0,
            **memory,
        }
