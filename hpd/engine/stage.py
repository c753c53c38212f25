"""One stage of a run: its steps, what is measured on the way, and the state that it keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hpd.artifacts.shards import in_memory
from hpd.checks import check_finite
from hpd.engine.course import Course
from hpd.engine.curve import fixed_loss
from hpd.engine.optimizer import hand_on_means, optimizer_state, rates, restore
from hpd.engine.rendered import render_all
from hpd.engine.snapshot import Best, Snapshot
from hpd.engine.step import Local, StepWork
from hpd.engine.trial import allotted, pays
from hpd.engine.watching.observer import Measured, StageReport, StepReport
from hpd.engine.watching.readings import DIVERGED
from hpd.typing import ParameterGroup, Stage, State, Step


@dataclass(frozen=True)
class _Looked:
    """What was measured before a step, as a `StepReport` has it."""

    score: float | None = None
    fixed_loss: float | None = None
    score_seconds: float = 0.0
    curve_seconds: float = 0.0


@dataclass
class StageRun:
    """One stage of a run, with a fresh optimiser."""

    course: Course
    index: int
    stage: Stage
    groups: Sequence[ParameterGroup]
    optimizer: torch.optim.Optimizer
    best: Best
    steps: int
    measured: list[Measured] = field(default_factory=list)
    done: int = 0
    skipped: bool = False
    not_told: Exception | None = None

    @classmethod
    def enter(cls, course: Course, index: int) -> StageRun:
        """Enter a stage of the source."""
        source = course.source
        groups = course.share.enter(index)
        lrs = course.settings.learning_rates(groups, course.processes)
        optimizer = course.settings.build(groups, lrs)
        best = Best(source.state(), math.inf, 0, course.lowest)
        steps = allotted(source.stages, [report.stage.steps for report in course.reports])
        return cls(course, index, source.stages[index], groups, optimizer, best, steps)

    def restore(self, since: Snapshot) -> None:
        """Go to where a snapshot was taken in this stage."""
        share, best = self.course.share, since.best
        self.course.source.load_state(share.rows(since.source))
        restore(self.optimizer, share.optimizer_rows(since.optimizer), since.rates)
        self.best = replace(best, state=share.rows(best.state))
        self.measured, self.done = list(since.measured), since.steps

    def run(self) -> None:
        """Take the steps that are left, and leave the source in its best state."""
        course, source = self.course, self.course.source
        for i in range(self.done, self.steps):
            with course.cost.line("steps"):
                agreed = self._step(Step(self.index, i))
            if agreed is None:
                self.skipped, self.steps = True, i
                break
            self.done = i + 1
            with course.cost.line("checkpoints"):
                course.keeper.after_step(self.done, self._snapshot, agreed)
        if not self.skipped:
            hand_on_means(self.optimizer)
        loss = self._fixed_loss(None) if course.curve_every else None
        with course.processes.together():
            self._check_told()
            last = self._rendered().to(source.labels.device)
            check_finite(last, f"the images after stage {self.stage.name!r}", DIVERGED)
        score = self._score(last)
        # not beside those of the best state
        del last
        self.best.offer(source, score, self.steps, clearly=self.skipped)
        self.measured.append(Measured(self.steps, score, loss))
        source.load_state(in_memory(self.best.state))
        best, measured = self.best, tuple(self.measured)
        stage = replace(self.stage, steps=self.steps)
        report = StageReport(stage, self.index, best.step, best.score, measured, self.skipped)
        course.finish(report, best.lowest, self._rendered())
        with course.processes.together():
            course.observer.on_stage(report)
        with course.cost.line("checkpoints"):
            course.keeper.after_stage(self._snapshot)

    def _rendered(self) -> Tensor:
        """Return all images of the source on the CPU, those of before if nothing is optimised."""
        unchanged = not self.groups and not self.stage.final
        return self.course.ended_with.clone() if unchanged else render_all(self.course.source)

    def _step(self, step: Step) -> int | None:
        """Score if it is time, match, and take one step of the optimiser.

        With several processes that is one small exchange, unless it is time to score, or a process
        needs what another one has.

        Returns:
            what the keepers agreed on; None where the trial of the stage ends before the step.
        """
        course, share = self.course, self.course.share
        where = f"at step {step.index} of stage {self.stage.name!r}"
        started, looked = time.perf_counter(), _Looked()
        taken = StepWork(course, self.groups, self.optimizer, step, self.steps, where)
        local = Local(course.processes)
        local.then(self._check_told, taken.draw)
        if self._looks(step):
            local.told()
            looked = self._look(step, taken.all_images)
            if step.index == self.stage.trial and not pays(self.measured):
                # the state is measured once more, as the last one of the stage
                self.measured.pop()
                return None
        if share.needs_all(course.objective, step, course.some):
            local.told()
            taken.join()
        local.then(taken.match)
        if taken.in_blocks:
            local.told()
            taken.add_up_blocks()
        local.then(taken.pull)
        if share.has_common(self.groups):
            local.told()
            share.add_up(self.groups)
        local.then(taken.update)
        answers = local.agreed(lambda: [taken.read.loss, course.keeper.asks()], 2)
        seconds = time.perf_counter() - started - looked.score_seconds - looked.curve_seconds
        report = StepReport(
            self.stage, step, sum(loss for loss, _ in answers), looked.score, taken.read.metrics,
            seconds, looked.score_seconds, looked.fixed_loss, looked.curve_seconds,
        )  # fmt: skip
        self._tell(report)
        if course.processes.count == 1:
            # a signal may have come while somebody heard of the step
            return course.keeper.asks()
        return int(max(asked for _, asked in answers))

    def _tell(self, report: StepReport) -> None:
        """Tell of a step; of an error the other processes hear when they exchange again."""
        try:
            self.course.observer.on_step(report)
        except Exception as error:
            if self.course.processes.count == 1:
                raise
            self.not_told = error

    def _check_told(self) -> None:
        error, self.not_told = self.not_told, None
        if error is not None:
            raise error

    def _looks(self, step: Step) -> bool:
        """Return whether the state before a step is measured."""
        every, curve_every = self.course.select_every, self.course.curve_every
        scored = step.index % every == 0 or step.index == self.stage.trial
        return scored or (bool(curve_every) and step.index % curve_every == 0)

    def _look(self, step: Step, images: Tensor | None) -> _Looked:
        """Measure the state before a step, as far as it is time.

        Args:
            step: of the run.
            images: all images of this process, if they are at hand.
        """
        course, score, loss = self.course, None, None
        started = time.perf_counter()
        trial = self.stage.trial
        if scored := step.index % course.select_every == 0 or step.index == trial:
            score = self._score_now(images)
            # in a trial a state that is as good is none that is better
            clearly = trial is not None and 0 < step.index <= trial
            self.best.offer(course.source, score, step.index, clearly=clearly)
        between = time.perf_counter()
        if asked := bool(course.curve_every) and step.index % course.curve_every == 0:
            loss = self._fixed_loss(images)
        if scored or asked:
            self.measured.append(Measured(step.index, score, loss))
        ended = time.perf_counter()
        return _Looked(score, loss, between - started, ended - between)

    def _fixed_loss(self, images: Tensor | None) -> float | None:
        """Return the loss on fixed draws; `images` are those here, if they are at hand."""
        course = self.course
        with course.cost.line("curves"):
            return fixed_loss(
                course.source, course.objective, course.share, course.processes, images, course.some
            )

    def _score_now(self, images: Tensor | None) -> float | None:
        """Return the score of the set as it is; `images` are those here, if they are at hand."""
        with self.course.cost.line("scores"):
            with self.course.processes.together():
                if images is None:
                    # a part of the set would be scored by the luck of its draw
                    images = render_all(self.course.source).to(self.course.source.labels.device)
            return self._score(images)

    def _score(self, images: Tensor) -> float | None:
        """Return the score of the images of all processes; `images` are those of this one."""
        with self.course.cost.line("scores"):
            return self.course.score(images, first=self.done == 0)

    def _snapshot(self) -> Snapshot:
        """Return what this process has of the run as it is."""
        self._check_told()
        course, share = self.course, self.course.share
        finished = len(course.reports) > self.index
        optimizer = State() if finished else optimizer_state(self.optimizer)
        return Snapshot(
            stage=self.index,
            steps=self.done,
            source=course.source.state(),
            objective=course.objective.state(),
            optimizer=optimizer,
            rates=() if finished else rates(self.optimizer),
            best=self.best,
            reports=tuple(course.reports),
            best_stage=course.best_stage,
            images=course.images,
            targets=course.targets,
            initial_images=course.initial,
            measured=() if finished else tuple(self.measured),
            seconds=course.cost.seconds,
            parts=course.cost.parts,
            places=share.all_places(optimizer),
        )
