"""The loop: stages, a fresh optimiser each, the best state of each, the best stage of all."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hpd.checks import check_finite
from hpd.device import Processes
from hpd.engine.cost import Cost
from hpd.engine.curve import fixed_loss
from hpd.engine.observer import Measured, Observer, StageReport, StepReport
from hpd.engine.optimizer import OptimizerSettings, hand_on_means, optimizer_state, rates, restore
from hpd.engine.readings import DIVERGED, Readings
from hpd.engine.rendered import Drawn, Rendered, SomeClasses, every_index, learnt_labels, render_all
from hpd.engine.sharing import Share
from hpd.engine.snapshot import Best, Keeper, KeepsNothing, Snapshot, near
from hpd.engine.trial import allotted, pays
from hpd.typing import (
    Objective,
    ParameterGroup,
    Selector,
    Source,
    Stage,
    State,
    Step,
)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        images: the distilled images [N, C, H, W] in [0, 1] (nominally), on the CPU.
        labels: [N].
        initial_images: the source's images before its first step, likewise.
        best_stage: number of the stage that the images are from.
        stages: the report of each stage.
        targets: the labels [N, K] that were learnt with the images, on the CPU; None: none were.
    """

    images: Tensor
    labels: Tensor
    initial_images: Tensor
    best_stage: int
    stages: Sequence[StageReport]
    targets: Tensor | None = None

    @property
    def kept_start(self) -> bool:
        """Whether no step of any stage was kept, so that the result is what the source began with.

        It never is without a selection, as the last step of each stage is kept.
        """
        return all(report.best_step == 0 for report in self.stages[: self.best_stage + 1])


def optimise(
    source: Source,
    objective: Objective,
    selector: Selector,
    optimizer_settings: OptimizerSettings,
    observer: Observer,
    *,
    select_every: int,
    curve_every: int = 0,
    keeper: Keeper | None = None,
    since: Snapshot | None = None,
    processes: Processes | None = None,
    cost: Cost | None = None,
    some_classes: SomeClasses | None = None,
) -> Outcome:
    """Run all stages of a source and return the best-scoring set.

    Each stage starts from the best state of the one before it, which is its first candidate:
    a stage whose steps only make things worse changes nothing.

    Several processes call this at once, with the same arguments. Each optimises the images of its
    own classes; gradients of what images of all classes depend on are added up. The outcome is the
    same in each of them, and but for rounding the same as that of one process.

    Args:
        source: what is optimised, in no stage yet.
        objective: what it is matched to.
        selector: what it is scored by; asked in the first process only.
        optimizer_settings: the optimiser of each stage.
        observer: hears of every step and stage; in the first process only.
        select_every: steps between scores.
        curve_every: steps between losses on fixed draws, which change nothing; 0: none.
        keeper: writes the run down; None: nobody does.
        since: where to go on; None: from the start. On a CPU the outcome is the same, to the bit.
        processes: those that share the work; None: this one does all of it.
        cost: counts what steps, scores and the like take.
        some_classes: which classes each step takes; None: all.

    Raises:
        NumericError: if loss, gradient or images are not finite.
        ProcessError: if another process failed or ended.
    """
    course = _Course(
        source, objective, selector, optimizer_settings, observer, keeper or KeepsNothing(),
        select_every, curve_every, processes or Processes(),
        cost or Cost(source.labels.device),
        initial=render_all(source) if since is None else since.initial_images,
        some=some_classes,
    )  # fmt: skip
    return course.run(since)


@dataclass
class _Course:
    """A run of the loop, and what it has come to."""

    source: Source
    objective: Objective
    selector: Selector
    settings: OptimizerSettings
    observer: Observer
    keeper: Keeper
    select_every: int
    curve_every: int
    processes: Processes
    cost: Cost
    initial: Tensor
    some: SomeClasses | None = None
    images: Tensor = field(init=False)
    targets: Tensor | None = None
    ended_with: Tensor = field(init=False)
    reports: list[StageReport] = field(default_factory=list)
    best_stage: int = 0
    lowest: float = math.inf

    def __post_init__(self) -> None:
        self.images = self.ended_with = self.initial

    def run(self, since: Snapshot | None) -> Outcome:
        """Run the stages that are left."""
        middle = None
        if since is not None:
            self._go_to(since)
            middle = None if since.after_stage else since
        for index in range(len(self.reports), len(self.source.stages)):
            stage = _StageRun.enter(self, index)
            if middle is not None and middle.stage == index:
                stage.restore(middle)
            stage.run()
        labels = self.source.labels.cpu()
        return Outcome(
            self.images, labels, self.initial, self.best_stage, self.reports, self.targets
        )

    def _go_to(self, since: Snapshot) -> None:
        """Take over what there was, with the source in the last stage that was finished."""
        self.reports, self.best_stage = list(since.reports), since.best_stage
        self.images, self.targets = since.images, since.targets
        self.lowest = since.best.lowest
        self.objective.load_state(since.objective)
        for index in range(len(self.reports)):
            self.source.enter(index)
        if since.after_stage:
            self.source.load_state(since.source)
            self.ended_with = render_all(self.source)

    def finish(self, report: StageReport, lowest: float, images: Tensor) -> None:
        """Take in a stage and its best images, in whose state the source is.

        Args:
            report: of the stage.
            lowest: score so far.
            images: [N, C, H, W], on the CPU.
        """
        self.reports.append(report)
        self.ended_with, self.lowest = images, lowest
        best = self.reports[self.best_stage].score
        if _outdoes(report, best, lowest):
            self.best_stage, self.images = report.index, self.ended_with
            self.targets = learnt_labels(self.source)

    def score(self, images: Tensor, labels: Tensor, *, first: bool) -> float | None:
        """Return the score of all images; that of the last stage, if a stage starts with its."""
        if first and self.reports and torch.equal(images.cpu(), self.ended_with):
            return self.reports[-1].score
        return self.selector(images, labels)


def _outdoes(report: StageReport, best: float | None, lowest: float) -> bool:
    """Return whether a stage is kept rather than the best before it, whose score is given."""
    if report.index == 0 or report.stage.final or report.score is None or best is None:
        return True
    return report.score < best or (report.best_step > 0 and near(report.score, lowest))


@dataclass(frozen=True)
class _Looked:
    """What was measured before a step, as a `StepReport` has it."""

    score: float | None
    fixed_loss: float | None
    score_seconds: float
    curve_seconds: float


@dataclass
class _StageRun:
    """One stage of a run, with a fresh optimiser."""

    course: _Course
    index: int
    stage: Stage
    groups: Sequence[ParameterGroup]
    optimizer: torch.optim.Optimizer
    best: Best
    share: Share
    steps: int
    measured: list[Measured] = field(default_factory=list)
    done: int = 0
    skipped: bool = False

    @classmethod
    def enter(cls, course: _Course, index: int) -> _StageRun:
        source = course.source
        groups = source.enter(index)
        # of the whole tensors, so that all processes have the same
        lrs = course.settings.learning_rates(groups)
        share = Share(course.processes, source)
        groups = share.take(groups)
        optimizer = course.settings.build(groups, lrs)
        best = Best(source.state(), math.inf, 0, course.lowest)
        steps = allotted(source.stages, [report.stage.steps for report in course.reports])
        return cls(course, index, source.stages[index], groups, optimizer, best, share, steps)

    def restore(self, since: Snapshot) -> None:
        """Go to where a snapshot was taken in this stage."""
        share, best = self.share, since.best
        self.course.source.load_state(share.rows(since.source))
        restore(self.optimizer, share.optimizer_rows(since.optimizer), since.rates)
        self.best = replace(best, state=share.rows(best.state))
        self.measured, self.done = list(since.measured), since.steps

    def run(self) -> None:
        """Take the steps that are left, and leave the source in its best state."""
        course, source = self.course, self.course.source
        for i in range(self.done, self.steps):
            with course.cost.line("steps"):
                taken = self._step(Step(self.index, i))
            if not taken:
                self.skipped, self.steps = True, i
                break
            self.done = i + 1
            with course.cost.line("checkpoints"):
                course.keeper.after_step(self.done, self._snapshot)
        if not self.skipped:
            hand_on_means(self.optimizer)
        loss = self._fixed_loss(None) if course.curve_every else None
        self.best.state = self.share.whole(self.best.state)
        self.share.give_back()
        with course.processes.together():
            last = self._rendered().to(source.labels.device)
            check_finite(last, f"the images after stage {self.stage.name!r}", DIVERGED)
        score = self._score(last)
        self.best.offer(source, score, self.steps, clearly=self.skipped)
        self.measured.append(Measured(self.steps, score, loss))
        source.load_state(self.best.state)
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

    def _step(self, step: Step) -> bool:
        """Score if it is time, match, and take one step of the optimiser.

        Returns:
            whether it was taken; False where the trial of the stage ends before it.
        """
        course, source, share = self.course, self.course.source, self.share
        where = f"at step {step.index} of stage {self.stage.name!r}"
        started = time.perf_counter()
        with course.processes.together():
            drawn = Drawn.of(source, step, course.some)
            chosen = drawn.indices
            rendered = Rendered.of(source, chosen)
            images, targets = rendered.images, rendered.targets
        looked = self._look(step, images if drawn.all else None)
        if step.index == self.stage.trial and not pays(self.measured):
            # the state is measured once more, as the last one of the stage
            self.measured.pop()
            return False
        needed = share.needs_all(course.objective, step)
        whole = share.join(images, chosen, targets) if needed else None
        with course.processes.together():
            matched = share.match(course.objective, images, drawn.labels, step, whole, targets)
        matched = share.add_up_blocks(course.objective, matched, whole)
        with course.processes.together():
            self.optimizer.zero_grad()
            rendered.pull(matched)
        share.add_up(self.groups)
        with course.processes.together():
            read = Readings.of(matched, self.groups, where)
        loss = share.total(read.loss)
        with course.processes.together():
            course.settings.step(self.optimizer, step.index, self.steps)
            seconds = time.perf_counter() - started - looked.score_seconds - looked.curve_seconds
            report = StepReport(
                self.stage, step, loss, looked.score, read.metrics, seconds,
                looked.score_seconds, looked.fixed_loss, looked.curve_seconds,
            )  # fmt: skip
            course.observer.on_step(report)
        return True

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
                course.source, course.objective, self.share, course.processes, images, course.some
            )

    def _score_now(self, images: Tensor | None) -> float | None:
        """Return the score of the set as it is; `images` are those here, if they are at hand."""
        everything = every_index(self.course.source)
        with self.course.cost.line("scores"):
            with self.course.processes.together():
                if images is None:
                    # a part of the set would be scored by the luck of its draw
                    images = render_all(self.course.source).to(everything.device)
            return self._score(self.share.join(images, everything).images)

    def _score(self, images: Tensor) -> float | None:
        """Return the score of the images of all classes."""
        course, labels, first = self.course, self.share.labels, self.done == 0
        with course.cost.line("scores"):
            return course.processes.first(lambda: course.score(images, labels, first=first))

    def _snapshot(self) -> Snapshot:
        course, share = self.course, self.share
        finished = len(course.reports) > self.index
        source, best, optimizer = course.source.state(), self.best.state, State()
        if not finished:
            # after it, what is here is whole
            source, best = share.whole(source), share.whole(best)
            optimizer = share.whole_optimizer(optimizer_state(self.optimizer))
        return Snapshot(
            stage=self.index,
            steps=self.done,
            source=source,
            objective=course.objective.state(),
            optimizer=optimizer,
            rates=() if finished else rates(self.optimizer),
            best=replace(self.best, state=best),
            reports=tuple(course.reports),
            best_stage=course.best_stage,
            images=course.images,
            targets=course.targets,
            initial_images=course.initial,
            measured=() if finished else tuple(self.measured),
            seconds=course.cost.seconds,
            parts=course.cost.parts,
        )
