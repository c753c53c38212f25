"""What an evaluation takes, added to the cost of its run as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from hpd.artifacts import RunFolder
from hpd.artifacts.costs import as_cost, seconds_of
from hpd.engine.watching.cost import Cost

Report = Callable[[str, int, int], None]
_OF_THE_SET = "distilled"
_SECONDS = 10.0


class EvaluationCost:
    """Counts an evaluation from here on, and writes what it took to the `cost.json` of its run.

    After a student, but not more often than each `_SECONDS`: a kill loses at most that time and one
    student's, and students that are known already cost no writes.

    Args:
        device: see `Cost`.
    """

    def __init__(self, device: torch.device) -> None:
        self._cost = Cost(device, rest="evaluation")
        self._folder: RunFolder | None = None
        self._known: dict[str, float] = {}
        self._written = time.monotonic()

    def write_to(self, folder: RunFolder) -> None:
        """Take the folder of the run, which is held."""
        self._folder, self._known = folder, folder.read_cost()
        self._cost.go_on(seconds_of(self._known))

    def hearing(self, report: Report) -> Report:
        """Return who hears of each student before `report` does."""

        def hear(name: str, done: int, total: int) -> None:
            self._cost.charge("students" if name.startswith(_OF_THE_SET) else "baselines")
            if time.monotonic() - self._written > _SECONDS:
                self.write()
            report(name, done, total)

        return hear

    def write(self) -> None:
        """Write what it took so far, if there is a folder."""
        self._written = time.monotonic()
        if self._folder is None:
            return
        peak, parts = self._known.get("peak_bytes"), self._known.get("parts", 1)
        told = as_cost(
            self._cost.seconds, parts=int(parts), peak_bytes=None if peak is None else int(peak)
        )
        self._folder.write_cost(told)
