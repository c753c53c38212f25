"""What the stages of a run will take, from the one that was measured, where a source can tell.

At later levels of a generator there are fewer layers to go through and more features to keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hpd.engine.rendered import Drawn, SomeClasses
from hpd.typing import Source, StageCost, Step, stage_costs_of

# of what is optimised, in a step: itself, its gradient, two moments, the best so far
_COPIES = 5
# and while a checkpoint is taken: itself and the moments once more
_MORE = 3
# of all images after each stage: for the check of the last state, and of the best one
_RENDERED = 2


@dataclass(frozen=True)
class Forecast:
    """What is to come of a run, measured once at one of its steps.

    Args:
        source: in the stage of that step.
        some: which classes a step takes; None: all.
        steps: left in each stage.
        checkpoints: whether there are any.
    """

    source: Source
    some: SomeClasses | None
    steps: Sequence[int]
    checkpoints: bool

    def of(self, step: Step, seconds: float) -> Ahead | None:
        """Measure what rendering takes of a step, and return what is ahead.

        The images of the step are rendered once more, and a gradient of zeros is taken back: what
        is optimised stays as it is, and its gradient is one that no step has yet been taken with.

        Args:
            step: that was taken last.
            seconds: of it.

        Returns:
            what is ahead; None where the source cannot tell, or all stages are alike.
        """
        costs = stage_costs_of(self.source)
        if costs is None or len(costs) < 2 or not costs[step.stage].rendering:
            return None
        indices = Drawn.of(self.source, step, self.some).indices
        device = indices.device
        started = _now(device)
        images, pullback = self.source.render(indices)
        between = _now(device)
        pullback(torch.zeros_like(images))
        ended = _now(device)
        share = len(self.source.labels) / len(indices)
        return Ahead(
            costs, step.stage, self.steps, self.checkpoints,
            step_seconds=seconds, rendering_seconds=min(ended - started, seconds),
            all_seconds=(between - started) * share,
        )  # fmt: skip


def _now(device: torch.device) -> float:
    """Return the time when a device has done what it was told to."""
    float(torch.zeros((), device=device))
    return time.perf_counter()


@dataclass(frozen=True)
class Ahead:
    """What is to come of a run.

    Args:
        costs: of each stage.
        stage: that was measured.
        steps: left in each stage.
        checkpoints: whether there are any.
        step_seconds: of a step of that stage.
        rendering_seconds: of them, for images and the way back.
        all_seconds: for all images in that stage, without a way back.
    """

    costs: Sequence[StageCost]
    stage: int
    steps: Sequence[int]
    checkpoints: bool
    step_seconds: float
    rendering_seconds: float
    all_seconds: float

    @property
    def seconds(self) -> float:
        """Of all steps, and of what comes after the steps of each stage."""
        rest = self.step_seconds - self.rendering_seconds
        total = 0.0
        for number in range(self.stage, len(self.costs)):
            share = self._share(number)
            total += self.steps[number] * (rest + self.rendering_seconds * share)
            total += _RENDERED * self.all_seconds * share
        return total

    def memory_bytes(self, now: int, before: int) -> int:
        """Return the most memory that is in use at a time.

        What a step keeps of the layers that it goes through falls with them; copies of what is
        optimised grow with the features.

        Args:
            now: in use at most, so far.
            before: the same before the first step.
        """
        own = self.costs[self.stage].state_bytes
        graph = max(now - before - _COPIES * own, 0)
        copies = _COPIES + (_MORE if self.checkpoints else 0)
        most = max(
            copies * self.costs[number].state_bytes + int(graph * self._share(number))
            for number in range(self.stage, len(self.costs))
        )
        return max(now, before + most)

    def _share(self, stage: int) -> float:
        """Return what rendering takes in a stage beside the one that was measured."""
        return self.costs[stage].rendering / self.costs[self.stage].rendering
