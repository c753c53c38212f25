"""Writes down what a run measures, step by step."""

from __future__ import annotations

from hpd.artifacts import RunFolder
from hpd.engine.observer import StageReport, StepReport


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
                **report.metrics,
                "seconds": round(report.seconds, 4),
                "score_seconds": round(report.score_seconds, 4),
            }
        )

    def on_stage(self, report: StageReport) -> None:
        """Hear of a stage."""
