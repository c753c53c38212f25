"""Time what a device does, and weigh what it holds; used by the benchmarks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
import torch

from hpd.machine.memory import peak_bytes

device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True
)
"""Where a tool measures."""

Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
"""Of a CPU: processor seconds count little what else the machine does, and add up threads."""

clock_option = click.option(
    "--clock", type=click.Choice([*CLOCKS]), default="wall", show_default=True
)
"""By which clock a tool measures on a CPU."""


def wait(device: torch.device) -> None:
    """Wait for all that a device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Marks moments of a device's work; on a GPU by events, for which the host does not wait.

    Args:
        device: whose work is timed. What it does at the moment is waited for.
        clock: of a CPU.
    """

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        wait(device)
        self._device, self._clock = device, clock
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """Mark the moment at which all that was asked for so far is done."""
        if self._device.type != "cuda":
            self._marks.append(self._clock())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Return the seconds between each mark and the next; the work is waited for."""
        wait(self._device)
        pairs = itertools.pairwise(self._marks)
        if self._device.type != "cuda":
            return [after - before for before, after in pairs]
        # events tell milliseconds
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]


def forget_peak(device: torch.device) -> None:
    """Let the peak memory of a GPU be counted from now on; a process' cannot be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> int:
    """Return the most bytes in use at a time: of tensors on a GPU, else of the process."""
    return peak_bytes(device) or 0
