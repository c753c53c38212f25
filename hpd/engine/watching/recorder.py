"""Writes down what a run measures, step by step."""

from __future__ import annotations

import logging

from hpd.artifacts import RunFolder
from hpd.artifacts.metrics import StageSteps, read_metrics
from hpd.engine.watching.observer import Measured, StageReport, StepReport
from hpd.errors import RunError
from hpd.typing import Stage

_logger = logging.getLogger(__name__)


class Recorder:
    """An observer that writes metrics to the folder of the run.

    Args:
        folder: the folder, already made.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_step(self, report: StepReport) -> None:
        """Add a line to the metrics."""
        self._folder.append_metrics(
            {
                "stage": report.stage.name,
                "step": report.step.index,
                "loss": report.loss,
                "score": report.score,
                "fixed_loss": report.fixed_loss,
                **report.metrics,
                "seconds": round(report.seconds, 4),
                "score_seconds": round(report.score_seconds, 4),
                "curve_seconds": round(report.curve_seconds, 4),
            }
        )

    def on_stage(self, report: StageReport) -> None:
        """Add a line about the state after the last step, and about the one that was kept."""
        last = report.measured[-1]
        self._folder.append_metrics(
            {
                "stage": report.stage.name,
                "step": last.step,
                "loss": None,
                "score": last.score,
                "fixed_loss": last.fixed_loss,
                "best_step": report.best_step,
                "best_score": report.score,
                **({"skipped": True} if report.skipped else {}),
                "seconds": 0.0,
                "score_seconds": 0.0,
                "curve_seconds": 0.0,
            }
        )


def stored_stages(folder: RunFolder) -> tuple[StageReport, ...]:
    """Return the reports of a run's stages, from its metrics.

    None where these cannot be read, with a warning, or are of an earlier version.
    """
    try:
        stages = read_metrics(folder) or []
    except RunError as error:
        _logger.warning("%s: %s", error.problem, error.got)
        return ()
    if any(stage.kept is None for stage in stages):
        return ()
    return tuple(_report(index, stage) for index, stage in enumerate(stages))


def _report(index: int, told: StageSteps) -> StageReport:
    assert told.kept is not None, "those of a stage that was finished"
    scores, losses = dict(told.scores), dict(told.fixed_losses)
    steps = sorted({*scores, *losses, told.steps})
    measured = tuple(Measured(step, scores.get(step), losses.get(step)) for step in steps)
    stage, kept = Stage(told.name, told.steps), told.kept
    return StageReport(stage, index, kept.step, kept.score, measured, kept.skipped)
