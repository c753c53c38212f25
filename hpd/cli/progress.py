"""What the command line shows while it works: a progress bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from hpd.cli.tables import say
from hpd.engine import StageReport, StepReport
from hpd.engine.watching.estimate import Estimate
from hpd.evaluation import EvaluationEstimate
from hpd.generator_runs.loop import TrainingReport
from hpd.progress import telling
from hpd.showing import counted
from hpd.students.experts.trajectories import ExpertSettings
from hpd.typing import Stage

# seconds after which some work within another gets a bar of its own, and between two looks at it
_LONG, _BETWEEN = 1.0, 0.1


@dataclass
class _Work:
    """Some work within another.

    Args:
        started: when.
        next: when to look at it again.
        done: how much of it is.
        task: its bar, if it took long enough for one.
    """

    started: float
    next: float = 0.0
    done: int = 0
    task: TaskID | None = None


class ProgressBar:
    """A progress bar over the steps of a run, the epochs of experts, or evaluated students.

    Below it stands a bar of what takes long by itself, as long as it does; see `hpd.progress`.

    Args:
        console: where to draw; a console that is no terminal gets no bar.
        title: what is going on; None: what is told of alone is shown.
    """

    def __init__(self, console: Console, title: str | None) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._epochs, self._explained, self._row = 1, False, ""
        self.worked = False
        self._task = self._progress.add_task(
            title or "", total=None, note="preparing", visible=title is not None
        )
        self._works: dict[str, _Work] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._open.enter_context(telling(self.on_work))
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

    def on_work(self, what: str, done: int, total: int) -> None:
        """Show a bar of its own for what takes longer than a moment."""
        now, work = time.monotonic(), self._works.get(what)
        if work is None or done < work.done:
            # the same over and over, as one student after another, keeps its bar
            work = _Work(now, task=None if work is None else work.task)
            self._works[what] = work
        ended, work.done = done >= total, done
        if now < work.next and not (ended and work.task is not None):
            return
        work.next = now + _BETWEEN
        if work.task is None:
            if now < work.started + _LONG:
                return
            work.task = self._progress.add_task(f"  {what}", total=total, note="")
        self._progress.update(work.task, completed=done, total=total, visible=not ended)

    def expect(self, stages: Sequence[Stage], done: int = 0) -> None:
        """Take the number of steps from the stages, some of which are done already."""
        self.worked, total = True, sum(stage.steps for stage in stages)
        self._progress.update(self._task, total=total, completed=done)
        if done:
            say(self._console, f"going on after {done} of {total} steps")

    def on_estimate(self, estimate: Estimate | EvaluationEstimate) -> None:
        """Print what a run, or an evaluation, will take."""
        say(self._console, str(estimate))

    def on_step(self, report: StepReport) -> None:
        """Move on by a step."""
        note = f"stage {report.stage.name}, loss {report.loss:.4g}"
        self._progress.update(self._task, advance=1, note=note)

    def on_stage(self, report: StageReport) -> None:
        """Print what the stage came to."""
        score = "" if report.score is None else f", score {report.score:.4g}"
        if score and not self._explained:
            score += " (lower is better)"
            self._explained = True
        score += f", skipped after {report.stage.steps}" if report.skipped else ""
        after = counted(report.best_step, "step")
        say(self._console, f"stage {report.stage.name:<12} kept after {after}{score}")

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
            say(self._console, f"expert {expert:<4} {epoch} epochs, loss {loss:.4g}")

    def expect_epochs(self, epochs: int) -> None:
        """Take the number of epochs of a single training."""
        self._progress.update(self._task, total=epochs)

    def on_teacher(self, epoch: int, loss: float) -> None:
        """Move on to where a teacher is."""
        self._progress.update(self._task, completed=epoch, note=f"epoch {epoch}, loss {loss:.4g}")

    def on_images(self, report: TrainingReport) -> None:
        """Move on to where the training of a generator is."""
        note = "" if report.distance is None else f"distance {report.distance:.4g}"
        self._progress.update(
            self._task, completed=report.images, total=report.expected_images, note=note
        )

    def on_student(self, name: str, done: int, total: int) -> None:
        """Move on by a student; without a terminal, say when the students of the next set begin."""
        note = row_label(name)
        if note != self._row and not self._console.is_terminal:
            say(self._console, f"student {done} of {total}: {note}")
        self._row = note
        self._progress.update(self._task, completed=done, total=total, note=note)
