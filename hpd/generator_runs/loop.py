"""The loop of a training: steps, saves, and the end of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from generators.training.step import Trainer
from hpd.generator_runs.folder import MEASURE, TrainingFolder
from hpd.generator_runs.measure import Measure
from hpd.generator_runs.pace import MEASURED_STEPS, Pace, Window, estimate, images_left
from hpd.generator_runs.settings import GeneratorRunSettings, Limits
from hpd.generator_runs.stopping import Point, is_enough
from hpd.machine.interrupts import Interrupted, Interrupts

_LOGS_PER_SAVE = 10
# what a process tells the others after a step
_GO_ON, _TIME_IS_UP, _INTERRUPTED = 0, 1, 2


@dataclass(frozen=True)
class TrainingReport:
    """What is told of a training after each step.

    Args:
        images: seen so far.
        expected_images: at the end, as far as that is known.
        distance: the newest to real images; None before the first.
    """

    images: int
    expected_images: int | None
    distance: float | None


class TrainingLoop:
    """Trains a generator in a folder until it is enough.

    Args:
        trainer: fresh.
        folder: what it goes on from, and where it writes.
        measure: of the first process, which is the one that measures.
        settings: options of the run.
        limits: when it ends at the latest.
        report: hears of every step, in the first process.
        say: hears lines for people, likewise.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: TrainingFolder,
        measure: Measure,
        *,
        settings: GeneratorRunSettings,
        limits: Limits,
        report: Callable[[TrainingReport], None],
        say: Callable[[str], None],
    ) -> None:
        self.trainer, self.folder, self.measure = trainer, folder, measure
        self.settings, self.limits = settings, limits
        self.report, self.say = report, say
        self.processes = trainer.processes
        batch = settings.batch
        self.save_steps = max(1, settings.curve.every_images // batch)
        self.log_steps = max(1, self.save_steps // _LOGS_PER_SAVE)
        self.expected: int | None = limits.images
        self.pace: Pace | None = None

    def run(self, interrupts: Interrupts) -> str:
        """Train, and return in words why it ended.

        Args:
            interrupts: heard after each step, with the state written.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM.
            NumericError: if a loss, or a sample, is not finite.
        """
        folder = self.folder
        with self.processes.together():
            folder.restore(self.trainer)
        ended = self._reason(self._time_is_up(folder.seconds))
        if ended and folder.points and self._newest().images == self.trainer.images_seen:
            return ended
        self._prepare()
        self.window, self.start = Window(), time.monotonic()
        with interrupts.deferred():
            while not ended:
                folder.final = None
                word = self._step(interrupts)
                ended = self._reason(word == _TIME_IS_UP)
            self._finish()
        return ended

    def _prepare(self) -> None:
        """Make the measure ready, and see how long it takes."""
        if self.folder.steps:
            self.say(f"going on after {self.trainer.images_seen:,} images")

        def measured() -> float:
            self.measure.prepare(self.folder.path / MEASURE)
            started = time.monotonic()
            self.measure.distance(self.trainer.average)
            return time.monotonic() - started

        s = self.settings
        interval = s.r1_interval_steps if s.r1_gamma else 0
        self.pace = Pace(interval, self.processes.first(measured))

    @property
    def seconds(self) -> float:
        """Time of training, over all parts of the run."""
        return self.folder.seconds + time.monotonic() - self.start

    def _time_is_up(self, seconds: float) -> bool:
        return self.limits.seconds is not None and seconds >= self.limits.seconds

    def _newest(self) -> Point:
        return self.folder.points[-1]

    def _reason(self, time_is_up: bool) -> str:
        """Return in words why the training has ended; empty if it has not."""
        curve, limits = self.settings.curve, self.limits
        stood = self.settings.start_images if self.settings.start is not None else 0
        if limits.images is not None and self.trainer.images_seen >= limits.images:
            return f"{limits.images:,} images are seen"
        if is_enough(
            self.folder.curve, patience=curve.patience, least_gain=curve.least_gain,
            after_images=stood,
        ):  # fmt: skip
            return f"{curve.patience} saves in a row brought no gain"
        return "the time is over" if time_is_up else ""

    def _step(self, interrupts: Interrupts) -> int:
        """Take a step, save and log what is due, and return what all processes agreed on."""
        trainer = self.trainer
        started, steps = time.monotonic(), trainer.steps
        self.window.add(trainer.step())
        self._tell(time.monotonic() - started, steps)
        own = _INTERRUPTED if interrupts.number else int(self._time_is_up(self.seconds))
        word = self.processes.largest(own)
        if trainer.steps % self.save_steps == 0:
            self._save(measured=True)
        elif word == _INTERRUPTED:
            # without a point, so that the curve is that of a run that never stopped
            self._save(measured=False)
        elif trainer.steps % self.log_steps == 0 and not self._reason(word == _TIME_IS_UP):
            self.folder.log(self._line())
        if word == _INTERRUPTED:
            interrupts.check()
            # another process heard it
            raise Interrupted(signal.SIGTERM)
        return word

    def _tell(self, seconds: float, steps: int) -> None:
        """Tell of a step, and after a few what all will take."""
        trainer, folder, pace = self.trainer, self.folder, self.pace
        assert pace is not None, "prepared before"
        regularises = bool(pace.interval) and steps % pace.interval == 0
        seen = trainer.images_seen
        if len(pace.steps) < MEASURED_STEPS and pace.add(seconds, regularises=regularises):
            curve = self.settings.curve
            rate = pace.rate(trainer.settings.batch, curve.every_images)
            since = folder.steps * self.settings.batch, folder.seconds
            self.say(estimate(rate, self.limits, curve, *since))
            left = images_left(rate, self.limits, *since)
            self.expected = None if left is None else since[0] + round(left)
        newest = self._newest().distance if folder.points else None
        self.report(TrainingReport(seen, self.expected, newest))

    def _line(self) -> dict[str, float]:
        """Return a line of the log: means since the last one."""
        seen, batch = self.trainer.images_seen, self.settings.batch
        return {"images": seen, **self.window.flush(self.seconds, batch)}

    def _save(self, *, measured: bool, final: bool = False) -> None:
        """Write the state, with the distance to real images if that is to be measured."""
        line, trainer = self._line(), self.trainer
        if measured:
            distance = self.processes.first(lambda: self.measure.distance(trainer.average))
            self.folder.add(trainer, Point(trainer.images_seen, distance), final=final)
            line |= {"distance": round(distance, 6)}
        self.folder.log(line)
        self.folder.save(trainer, self.seconds)

    def _finish(self) -> None:
        """Measure the last state, where it is no point of the curve."""
        points = self.folder.points
        if not points or points[-1].images != self.trainer.images_seen:
            self._save(measured=True, final=True)
