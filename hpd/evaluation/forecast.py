"""How long an evaluation goes on, told once its first students were tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpd.evaluation.bench import Bench
from hpd.evaluation.contenders import Contender
from hpd.showing import counted, roughly
from hpd.students import StudentSettings


@dataclass(frozen=True)
class EvaluationEstimate:
    """How long an evaluation goes on, by the students that were tested first.

    Args:
        students: that are left to train and to test.
        seconds: that they take, by what they see beside the first ones; without the card.
    """

    students: int
    seconds: float

    def __str__(self) -> str:
        """Return one line."""
        left = counted(self.students, "more student")
        return f"about {roughly(self.seconds)} to train and test {left}"


EstimateHook = Callable[[EvaluationEstimate], None]


class Forecast:
    """Tells once how long the students take that are left, when the first ones were tested.

    Args:
        bench: where they are trained and tested.
        tell: hears it.
        works: architecture, set and number of the students that learn at once, in the order in
            which they are tested; those that were tested before do not count.
    """

    def __init__(
        self, bench: Bench, tell: EstimateHook,
        works: Sequence[tuple[StudentSettings, Contender, int]],
    ) -> None:  # fmt: skip
        self._bench, self._tell, self._done, self._told = bench, tell, 0, False
        self._students = [count for _, _, count in works]
        self._efforts = [bench.effort(*work) if work[2] else 0.0 for work in works]
        self._started = time.perf_counter()

    def hear(self, works: int) -> None:
        """Hear that the next so many works are done."""
        self._done += works
        tested, left = sum(self._efforts[: self._done]), sum(self._efforts[self._done :])
        students = sum(self._students[self._done :])
        if self._told or not tested or not students:
            return
        self._told = True
        # teachers are trained once, for the first student that asks
        seconds = time.perf_counter() - self._started - self._bench.teaching_seconds
        self._tell(EvaluationEstimate(students, seconds / tested * left))
