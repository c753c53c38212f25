"""Trackers: what a run measures, sent to TensorBoard or W&B while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hpd.engine.watching.observer import StageReport, StepReport
from hpd.errors import ConfigError
from hpd.machine.device import Tracker, TrackerName
from hpd.registry import Only, Settings
from hpd.typing import Stage


class TrackingSettings(Settings):
    """Where metrics go besides `metrics.jsonl`; only the first of several processes sends them."""

    to: list[TrackerName] = Field(
        [], description="tensorboard: files in the run's folder; wandb: Weights & Biases"
    )
    project: Annotated[str, Only("to", "wandb")] = Field(
        "hpd", min_length=1, description="project of W&B"
    )

    def check(self, folder: Path | None) -> None:
        """Check that everything the trackers need is there.

        Raises:
            ConfigError: if a package is missing, or there is no folder.
        """
        for name in self.to:
            if find_spec(name) is None:
                raise ConfigError(
                    f"the tracker {name!r} needs a package that is not installed",
                    fix=f"Install it with `pip install {name}`, or leave the tracker out.",
                )
        if self.to and folder is None:
            raise ConfigError("trackers write to the folder of the run", fix="Give it an --out.")


class Tracking:
    """An observer that sends the loss, the score and other metrics of each step to trackers.

    Steps are counted through all stages. What a run sent after the checkpoint from which it goes on
    is sent again; TensorBoard shows the second.

    Args:
        settings: which trackers.
        folder: of the run.
        config: of the run, sent once.
        stages: all of them.
        done: steps taken already.
    """

    def __init__(
        self, settings: TrackingSettings, folder: Path, config: dict[str, Any],
        stages: Sequence[Stage], done: int,
    ) -> None:  # fmt: skip
        self._starts = [0, *accumulate(stage.steps for stage in stages)]
        self._trackers = [
            Tracker(name, folder, settings.project, config, done) for name in settings.to
        ]

    def on_step(self, report: StepReport) -> None:
        """Send what was measured in a step."""
        values = {"loss": report.loss, **report.metrics, "stage": report.step.stage}
        if report.score is not None:
            values["score"] = report.score
        if report.fixed_loss is not None:
            values["fixed_loss"] = report.fixed_loss
        self._send(values, self._starts[report.step.stage] + report.step.index)

    def on_stage(self, report: StageReport) -> None:
        """Send the score and the loss on fixed draws after a stage, and its best score."""
        last = report.measured[-1] if report.measured else None
        found = {
            "score": None if last is None else last.score,
            "fixed_loss": None if last is None else last.fixed_loss,
            "best_score": report.score,
        }
        values = {name: value for name, value in found.items() if value is not None}
        if values:
            self._send(values, self._starts[report.index + 1])

    def _send(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.send(values, step)

    def close(self) -> None:
        """Write what is not written yet."""
        for tracker in self._trackers:
            tracker.close()
