"""What a run will take, from a step of it that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from hpd.engine.snapshot import Snapshot
from hpd.engine.watching.forecast import Ahead, Forecast
from hpd.engine.watching.observer import StageReport, StepReport
from hpd.machine.memory import as_text, peak_bytes
from hpd.showing import counted, roughly
from hpd.typing import Stage

_WORTH_TELLING = 1.0


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Args:
        steps: optimiser steps.
        scores: of the set, for the selection.
        curves: losses on fixed draws.
        stages: steps of each stage.
    """

    steps: int
    scores: int
    curves: int = 0
    stages: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def left(
        cls, stages: Sequence[Stage], select_every: int, since: Snapshot | None,
        curve_every: int = 0,
    ) -> Work:  # fmt: skip
        """Return what a run has to do, from its start or from a snapshot.

        >>> Work.left([Stage("a", 25), Stage("b", 0)], 10, None, 20)
        Work(steps=25, scores=5, curves=4)
        """
        scores = curves = 0
        left = [0] * len(stages)
        for index, stage in enumerate(stages):
            if since is not None and index < len(since.reports):
                continue
            done = since.steps if since is not None and index == since.stage else 0
            left[index] = stage.steps - done
            scores += _times(stage.steps, done, select_every)
            curves += _times(stage.steps, done, curve_every) if curve_every else 0
        return cls(sum(left), scores, curves, tuple(left))


def _times(steps: int, done: int, every: int) -> int:
    """Return how often something is measured: before every so many steps, and at the end.

    >>> _times(25, 0, 10), _times(25, 10, 10), _times(25, 11, 10)
    (4, 3, 2)
    """
    return -(-steps // every) - -(-done // every) + 1


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    A stage that starts with the images of the one before it knows their score, so the total is the
    most it may take.

    Args:
        stored_floats: that the distilled set counts for.
        memory_bytes: in use at most; None where that is not known.
        step_seconds: of one step.
        score_seconds: of one score; None where none was taken yet.
        work: what there was to do.
        curve_seconds: of one loss on fixed draws; None where none was taken yet.
        prepared_seconds: what it took up to the first step: reading data, the source's start, and
            what objective and selection need.
        ahead: what is to come, where stages differ and the source can tell; None: all steps are
            alike.
    """

    stored_floats: int
    memory_bytes: int | None
    step_seconds: float
    score_seconds: float | None
    work: Work
    curve_seconds: float | None = None
    prepared_seconds: float = 0.0
    ahead: Ahead | None = None

    @property
    def steps_seconds(self) -> float:
        """Time of all steps."""
        if self.ahead is not None:
            return self.ahead.seconds
        return self.work.steps * self.step_seconds

    @property
    def scores_seconds(self) -> float:
        """Time of all scores, 0 where that is not known."""
        return self.work.scores * (self.score_seconds or 0.0)

    @property
    def curves_seconds(self) -> float:
        """Time of all losses on fixed draws, 0 where that is not known."""
        return self.work.curves * (self.curve_seconds or 0.0)

    @property
    def seconds(self) -> float:
        """Time of all of it, without the evaluation."""
        parts = (self.steps_seconds, self.scores_seconds, self.curves_seconds)
        return self.prepared_seconds + sum(parts)

    def __str__(self) -> str:
        """Return one line."""
        memory = "" if self.memory_bytes is None else f"{as_text(self.memory_bytes)}, "
        parts = []
        if self.prepared_seconds >= _WORTH_TELLING:
            parts += [f"{roughly(self.prepared_seconds)} to prepare, which is over"]
        parts += [f"{roughly(self.steps_seconds)} for {counted(self.work.steps, 'step')}"]
        # the first of each was measured, which also prepares what all of them need
        if self.score_seconds is not None:
            parts += [f"up to {roughly(self.scores_seconds)} for {self.work.scores} scores"]
        if self.curve_seconds is not None:
            many = f"{self.work.curves} losses on fixed draws"
            parts += [f"up to {roughly(self.curves_seconds)} for {many}"]
        return (
            f"{self.stored_floats:,} floats, {memory}{self.step_seconds:.3g} s a step: "
            f"about {roughly(self.seconds)} to distil ({', '.join(parts)}); "
            "the evaluation comes after"
        )


class Estimator:
    """An observer that measures a step, and tells once what the run will take.

    The second step is measured, as the first one also prepares what all of them need; the first
    if there is no second.

    Args:
        stored_floats: see `Estimate`.
        work: what there is to do.
        device: where the run computes.
        tell: hears the estimate.
        prepared_seconds: see `Estimate`.
        forecast: measures what stages take beside each other; None: nothing does.
    """

    def __init__(
        self, stored_floats: int, work: Work, device: torch.device,
        tell: Callable[[Estimate], None], prepared_seconds: float = 0.0,
        forecast: Forecast | None = None,
    ) -> None:  # fmt: skip
        self._stored_floats, self._work = stored_floats, work
        self._device, self._tell = device, tell
        self._prepared_seconds, self._forecast = prepared_seconds, forecast
        self._before = peak_bytes(device)
        self._seen = 0
        self._score_seconds: float | None = None
        self._curve_seconds: float | None = None

    def on_step(self, report: StepReport) -> None:
        """Measure one step of the first two."""
        self._seen += 1
        if self._seen <= 2 and report.score is not None:
            self._score_seconds = report.score_seconds
        if self._seen <= 2 and report.fixed_loss is not None:
            self._curve_seconds = report.curve_seconds
        if self._seen == min(2, self._work.steps):
            self._tell(self._estimate(report))

    def _estimate(self, report: StepReport) -> Estimate:
        ahead, memory = None, peak_bytes(self._device)
        if self._forecast is not None:
            ahead = self._forecast.of(report.step, report.seconds)
        if ahead is not None and memory is not None and self._before is not None:
            memory = ahead.memory_bytes(memory, self._before)
        return Estimate(
            self._stored_floats, memory, report.seconds, self._score_seconds, self._work,
            self._curve_seconds, self._prepared_seconds, ahead,
        )  # fmt: skip

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""
