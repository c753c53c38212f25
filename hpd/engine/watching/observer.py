"""What the loop tells the outside: one report per step and one per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpd.typing import Stage, Step


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Args:
        stage: the stage it belongs to.
        step: where in the run.
        loss: the objective's loss before the step.
        score: score of the set before the step, None where it was not scored.
        metrics: what else the objective measured.
        seconds: wall time of the step, without those below.
        score_seconds: wall time of the score, 0 where it was not scored.
        fixed_loss: the loss before the step on draws that are the same each time, None where it
            was not measured; see `hpd.engine.curve`.
        curve_seconds: wall time of that, 0 where it was not measured.
    """

    stage: Stage
    step: Step
    loss: float
    score: float | None
    metrics: Mapping[str, float]
    seconds: float
    score_seconds: float
    fixed_loss: float | None = None
    curve_seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What was measured of one state of a stage.

    Args:
        step: number of optimiser steps of the stage before it.
        score: of the set, None where it was not scored.
        fixed_loss: the objective on fixed draws, None where it was not asked or is not finite.
    """

    step: int
    score: float | None = None
    fixed_loss: float | None = None


@dataclass(frozen=True)
class StageReport:
    """One finished stage, restored to its best state.

    Args:
        stage: the stage, with the steps that it took.
        index: its number.
        best_step: number of optimiser steps after which the best state was seen.
        score: score of the best state, None where nothing is scored.
        measured: of every state that was measured, in order: the first is that before the first
            step, the last that after the last one.
        skipped: whether it ended with its trial; see `Stage`.
    """

    stage: Stage
    index: int
    best_step: int
    score: float | None
    measured: tuple[Measured, ...] = ()
    skipped: bool = False


class Observer(Protocol):
    """Listens to a run: progress bar, metrics file."""

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""
        ...

    def on_stage(self, report: StageReport) -> None:
        """Hear of a finished stage."""
        ...


class Listeners:
    """Passes reports on to several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""
        for observer in self._observers:
            observer.on_step(report)

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""
        for observer in self._observers:
            observer.on_stage(report)
