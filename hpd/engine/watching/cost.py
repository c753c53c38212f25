"""What a run takes: wall time by what it was spent on, over all parts of the run, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from hpd.artifacts.costs import as_cost
from hpd.machine.memory import peak_bytes


class Cost:
    """The wall time of a run from here on, line by line.

    Every moment belongs to one line: what a line within another takes is not counted twice, and
    what belongs to none is `rest`. So the lines sum to the total.

    Args:
        device: whose memory is told.
        clock: seconds since some moment.
        rest: the line of what belongs to no other.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], float] = lambda: time.perf_counter(),
        rest: str = "other",
    ) -> None:
        self._device, self._clock, self._last = device, clock, clock()
        self._open = [rest]
        self._seconds: dict[str, float] = {}
        self._parts = 1

    @contextmanager
    def line(self, name: str) -> Iterator[None]:
        """Count what a block takes to a line, however the block ends."""
        self.charge(self._open[-1])
        self._open.append(name)
        try:
            yield
        finally:
            self.charge(name)
            self._open.pop()

    def charge(self, name: str) -> None:
        """Count to a line what was not counted yet."""
        now = self._clock()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def go_on(self, seconds: Mapping[str, float], parts: int = 0) -> None:
        """Add what earlier parts took.

        Args:
            seconds: by line.
            parts: how many they were.
        """
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value
        self._parts += parts

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each line so far."""
        self.charge(self._open[-1])
        return dict(self._seconds)

    @property
    def parts(self) -> int:
        """Number of parts so far, this one included."""
        return self._parts

    def as_json(self) -> dict[str, float]:
        """Return what `cost.json` holds; see `hpd.artifacts.costs`."""
        return as_cost(self.seconds, parts=self._parts, peak_bytes=peak_bytes(self._device))
