"""The work of one step in one process, between its exchanges with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpd.engine.course import Course
from hpd.engine.rendered import Drawn, Rendered
from hpd.engine.sharing import Whole
from hpd.engine.watching.readings import Readings
from hpd.machine.device import Processes
from hpd.typing import Matched, ParameterGroup, Step


class Local:
    """What a process does by itself until the next exchange, which fails in all if it fails in one.

    Args:
        processes: that exchange.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._work: list[Callable[[], None]] = []

    def then(self, *work: Callable[[], None]) -> None:
        """Add what is to be done."""
        self._work += work

    def told(self) -> None:
        """Do it, and tell the others that it is done."""
        with self._processes.together():
            self._do()

    def agreed(self, numbers: Callable[[], Sequence[float]], size: int) -> list[list[float]]:
        """Do it, and return the numbers that each process came to; see `Processes.agree`."""

        def work() -> Sequence[float]:
            self._do()
            return numbers()

        return self._processes.agree(work, size)

    def _do(self) -> None:
        work, self._work = self._work, []
        for one in work:
            one()


class StepWork:
    """A step of a stage, part by part: each needs what those before it left.

    Args:
        course: of the run.
        groups: what is optimised.
        optimizer: of the stage.
        step: of the run.
        steps: of the stage.
        where: in the run, for messages.
    """

    drawn: Drawn
    read: Readings
    _rendered: Rendered
    _matched: Matched

    def __init__(
        self, course: Course, groups: Sequence[ParameterGroup], optimizer: torch.optim.Optimizer,
        step: Step, steps: int, where: str,
    ) -> None:  # fmt: skip
        self._course, self._groups, self._optimizer = course, groups, optimizer
        self._step, self._steps, self._where = step, steps, where
        self._whole: Whole | None = None

    def draw(self) -> None:
        """Render the images of the step."""
        self.drawn = Drawn.of(self._course.source, self._step, self._course.some)
        self._rendered = Rendered.of(self._course.source, self.drawn.indices)

    @property
    def all_images(self) -> Tensor | None:
        """The images of this process, where the step has all of them."""
        return self._rendered.images if self.drawn.all else None

    def join(self) -> None:
        """Have the images of all processes."""
        images, targets = self._rendered.images, self._rendered.targets
        self._whole = self._course.share.join(images, self.drawn, targets)

    def match(self) -> None:
        """Match what is here."""
        images, targets = self._rendered.images, self._rendered.targets
        self._matched = self._course.share.match(
            self._course.objective, images, self.drawn.labels, self._step, self._whole, targets
        )

    @property
    def in_blocks(self) -> bool:
        """Whether other processes match some of the images here."""
        return self._course.share.in_blocks(self._course.objective, self._whole)

    def add_up_blocks(self) -> None:
        """Take the gradient of the images here from all processes."""
        course = self._course
        self._matched = course.share.add_up_blocks(course.objective, self._matched, self._whole)

    def pull(self) -> None:
        """Take gradients back to what is optimised."""
        self._optimizer.zero_grad()
        self._rendered.pull(self._matched)
        if not len(self.drawn.indices):
            # images that are in no step move on by what the optimiser remembers, too
            for group in self._groups:
                for tensor in group.tensors:
                    tensor.grad = torch.zeros_like(tensor)

    def update(self) -> None:
        """Read what the step came to, and change what is optimised.

        Raises:
            NumericError: if loss or a gradient is not finite.
        """
        self.read = Readings.of(self._matched, self._groups, self._where)
        self._course.settings.step(self._optimizer, self._step.index, self._steps)
