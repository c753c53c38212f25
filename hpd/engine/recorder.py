"""Writes a run down while it goes: metrics per step, a checkpoint per stage."""

from __future__ import annotations

from collections.abc import Callable

from hpd.artifacts import RunFolder
from hpd.engine.observer import StageReport, StepReport
from hpd.engine.snapshot import Snapshot


class Recorder:
    """An observer and keeper that writes to the folder of the run.

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

    def after_step(self, steps: int, take: Callable[[], Snapshot]) -> None:
        """Hear of a step."""

    def after_stage(self, take: Callable[[], Snapshot]) -> None:
        """Write the best state of the stage."""
        snapshot = take()
        report = snapshot.reports[-1]
        about = {
            "stage": report.stage.name,
            "index": report.index,
            "best_step": report.best_step,
            "score": report.score,
        }
        self._folder.write_checkpoint(f"stage-{report.index:02d}", snapshot.source, about)
