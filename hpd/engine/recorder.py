"""Writes a run down while it goes: metrics per step, a checkpoint per stage."""

from __future__ import annotations

from hpd.artifacts import RunFolder
from hpd.engine.observer import StageReport, StepReport


class Recorder:
    """An observer that writes to the folder of the run.

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
            }
        )

    def on_stage(self, report: StageReport) -> None:
        """Write the best state of the stage."""
        about = {
            "stage": report.stage.name,
            "index": report.index,
            "best_step": report.best_step,
            "score": report.score,
        }
        self._folder.write_checkpoint(f"stage-{report.index:02d}", report.state, about)
