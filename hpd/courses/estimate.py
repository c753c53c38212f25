"""What a course will take, from its first step that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpd.showing import roughly


@dataclass(frozen=True)
class Task:
    """One buffer at one step of one order: to be made, and to be learned from."""

    order: int
    step: int
    buffer: str


class CourseEstimator:
    """Measures each buffer once, and then tells what is left.

    A buffer takes as long at each step; students take longer in proportion to the classes seen.

    Args:
        left: what there is to do, in order; `make` and `learn` say of each what was done already.
        tell: hears the estimate, as a line.
    """

    def __init__(self, left: Sequence[Task], tell: Callable[[str], None]) -> None:
        self._left, self._tell = list(left), tell
        self._waits = {task.buffer for task in left}
        self._making: dict[str, float] = {}
        self._learning: dict[str, float] = {}

    def done(self, task: Task, making_seconds: float, learning_seconds: float) -> None:
        """Hear how long one task took."""
        self._left.remove(task)
        self._making.setdefault(task.buffer, making_seconds)
        self._learning.setdefault(task.buffer, learning_seconds / (task.step + 1))
        if task.buffer in self._waits:
            self._waits.discard(task.buffer)
            if not self._waits and self._left:
                self._tell(str(self))

    @property
    def seconds(self) -> float:
        """Time that what is left takes."""
        return sum(
            self._making[task.buffer] + self._learning[task.buffer] * (task.step + 1)
            for task in self._left
        )

    def __str__(self) -> str:
        """Return one line."""
        making = sum(self._making[task.buffer] for task in self._left)
        return (
            f"about {roughly(self.seconds)} for the {len(self._left)} buffers and steps that are "
            f"left, {roughly(making)} of it to make buffers"
        )
