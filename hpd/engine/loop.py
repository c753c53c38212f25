"""The loop: stages, a fresh optimiser each, the best state of each, the best stage of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hpd.engine.course import Course
from hpd.engine.optimizer import OptimizerSettings
from hpd.engine.rendered import SomeClasses
from hpd.engine.sharing import Share
from hpd.engine.snapshot import Keeper, KeepsNothing, Snapshot
from hpd.engine.stage import StageRun
from hpd.engine.watching.cost import Cost
from hpd.engine.watching.observer import Observer, StageReport
from hpd.machine.device import Processes
from hpd.typing import Objective, Selector, Source, StoresBits


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
    own classes, and keeps what belongs to them alone, also when it is over; gradients of what
    images of all classes depend on are added up. The outcome is the same in each of them, and but
    for rounding the same as that of one process.

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
    processes = processes or Processes()
    share = Share(processes, source)
    start = _rendered(source, share) if since is None else share.image_rows(since.initial_images)
    course = Course(
        source, objective, selector, optimizer_settings, observer, keeper or KeepsNothing(),
        select_every, curve_every, processes, cost or Cost(source.labels.device), share, start,
        some_classes,
    )  # fmt: skip
    try:
        _run(course, since)
    except BaseException:
        course.keeper.leave()
        raise
    with course.cost.line("checkpoints"):
        course.keeper.finish()
    return _outcome(course)


def _rendered(source: Source, share: Share) -> Tensor:
    """Return the images of this process, of a source that is still whole, on the CPU."""
    return source.render(share.own.to(source.labels.device))[0].cpu()


def _run(course: Course, since: Snapshot | None) -> None:
    """Run the stages that are left."""
    middle = None
    if since is not None:
        course.go_to(since)
        middle = None if since.after_stage else since
    for index in range(len(course.reports), len(course.source.stages)):
        stage = StageRun.enter(course, index)
        if middle is not None and middle.stage == index:
            stage.restore(middle)
        stage.run()


def _outcome(course: Course) -> Outcome:
    """Put together what all processes have come to."""
    share, targets = course.share, course.targets
    if isinstance(course.source, StoresBits):
        # what is stored is of all images
        share.be_whole()
    return Outcome(
        share.everywhere(course.images),
        share.labels.cpu(),
        share.everywhere(course.initial),
        course.best_stage,
        course.reports,
        None if targets is None else share.everywhere(targets),
    )
