"""What the loop tells the outside: one report per step and one per stage."""

from __future__ import annotations

from collections.abc import Mapping
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
        seconds: wall time of the step, without that of the score.
        score_seconds: wall time of the score, 0 where it was not scored.
    """

    stage: Stage
    step: Step
    loss: float
    score: float | None
    metrics: Mapping[str, float]
    seconds: float
    score_seconds: float


@dataclass(frozen=True)
class StageReport:
    """One finished stage, restored to its best state.

    Args:
        stage: the stage.
        index: its number.
        best_step: number of optimiser steps after which the best state was seen.
        score: score of the best state, None where nothing is scored.
    """

    stage: Stage
    index: int
    best_step: int
    score: float | None


class Observer(Protocol):
    """Listens to a run: progress bar, metrics file."""

    def on_step(self, report: StepReport) -> None:
        """Hear of a step."""
        ...

    def on_stage(self, report: StageReport) -> None:
        """Hear of a finished stage."""
        ...
