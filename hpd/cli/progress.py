"""What the command line shows while it works: a progress bar with the time left."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from typing_extensions import Self

from hpd.artifacts.report.tables import row_label
from hpd.data.store import telling
from hpd.engine import StageReport, StepReport
from hpd.engine.estimate import Estimate
from hpd.students.trajectories import ExpertSettings
from hpd.typing import Stage


class ProgressBar:
    """A progress bar over the steps of a run, the epochs of experts, or evaluated students.

    Args:
        console: where to draw; a console that is no terminal gets no bar.
        title: what is going on.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._epochs = 1
        self._task = self._progress.add_task(title, total=None, note="preparing")
        self._pictures: TaskID | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(telling(self.on_picture))
        # some releases of rich print an empty line for a progress bar that is disabled
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        if self._console.is_terminal:
            self._progress.stop()

    def on_picture(self, done: int, total: int) -> None:
        """Show a bar of its own while pictures of a large set are read."""
        if self._pictures is None:
            self._pictures = self._progress.add_task("reading pictures", total=total, note="")
        self._progress.update(self._pictures, completed=done, total=total)
        if done == total:
            self._progress.remove_task(self._pictures)
            self._pictures = None

    def expect(self, stages: Sequence[Stage], done: int = 0) -> None:
        """Take the number of steps from the stages, some of which are done already."""
        total = sum(stage.steps for stage in stages)
        self._progress.update(self._task, total=total, completed=done)
        if done:
            self._console.print(f"going on after {done} of {total} steps", highlight=False)

    def on_estimate(self, estimate: Estimate) -> None:
        """Print what a run will take."""
        self._console.print(str(estimate), highlight=False, soft_wrap=True)

    def on_step(self, report: StepReport) -> None:
        """Move on by a step."""
        note = f"stage {report.stage.name}, loss {report.loss:.4g}"
        self._progress.update(self._task, advance=1, note=note)

    def on_stage(self, report: StageReport) -> None:
        """Print what the stage came to."""
        score = "" if report.score is None else f", score {report.score:.4g}"
        self._console.print(
            f"stage {report.stage.name:<12} best after {report.best_step:>4} steps{score}",
            highlight=False,
        )

    @property
    def done(self) -> int:
        """How far it has come."""
        return int(self._progress.tasks[0].completed)

    def expect_experts(self, settings: ExpertSettings, epochs: int) -> None:
        """Take the number of experts, and of the epochs of each."""
        self._epochs = epochs
        self._progress.update(self._task, total=settings.count * self._epochs)

    def on_epoch(self, expert: int, epoch: int, loss: float) -> None:
        """Move on to where an expert is, and say when it is finished."""
        done = expert * self._epochs + epoch
        note = f"expert {expert}, epoch {epoch}, loss {loss:.4g}"
        self._progress.update(self._task, completed=done, note=note)
        if epoch == self._epochs:
            self._console.print(
                f"expert {expert:<4} {epoch} epochs, loss {loss:.4g}", highlight=False
            )

    def expect_epochs(self, epochs: int) -> None:
        """Take the number of epochs of a single training."""
        self._progress.update(self._task, total=epochs)

    def on_teacher(self, epoch: int, loss: float) -> None:
        """Move on to where a teacher is."""
        self._progress.update(self._task, completed=epoch, note=f"epoch {epoch}, loss {loss:.4g}")

    def on_student(self, name: str, done: int, total: int) -> None:
        """Move on by a student."""
        note = row_label(name)
        self._progress.update(self._task, completed=done, total=total, note=note)
