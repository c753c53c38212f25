"""A run of the loop, and what it has come to: what its stages have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpd.artifacts.shards import in_memory
from hpd.engine.optimizer import OptimizerSettings
from hpd.engine.rendered import SomeClasses, learnt_labels, render_all
from hpd.engine.sharing import Share
from hpd.engine.snapshot import Keeper, Snapshot, near
from hpd.engine.watching.cost import Cost
from hpd.engine.watching.observer import Observer, StageReport
from hpd.machine.device import Processes
from hpd.typing import Objective, Selector, Source


@dataclass
class Course:
    """A run of the loop; of images and labels each process has its own.

    Args:
        source: what is optimised.
        objective: what it is matched to.
        selector: what it is scored by.
        settings: the optimiser of each stage.
        observer: hears of every step and stage.
        keeper: writes the run down.
        select_every: steps between scores.
        curve_every: steps between losses on fixed draws; 0: none.
        processes: those that share the work.
        cost: counts what it takes.
        share: what this process has of the source.
        initial: the images of before the first step.
        some: which classes each step takes; None: all.
    """

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
    share: Share
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

    def go_to(self, since: Snapshot) -> None:
        """Take over what there was, with the source in the last stage that was finished."""
        self.reports, self.best_stage = list(since.reports), since.best_stage
        self.images = self.share.image_rows(since.images)
        self.targets = None if since.targets is None else self.share.image_rows(since.targets)
        self.lowest = since.best.lowest
        self.objective.load_state(in_memory(since.objective))
        for index in range(len(self.reports)):
            self.share.enter(index)
        if since.after_stage:
            self.source.load_state(self.share.rows(since.source))
            self.ended_with = render_all(self.source)

    def finish(self, report: StageReport, lowest: float, images: Tensor) -> None:
        """Take in a stage and its best images, in whose state the source is.

        Args:
            report: of the stage.
            lowest: score so far.
            images: of this process [n, C, H, W], on the CPU.
        """
        self.reports.append(report)
        # a large set of which nothing is optimised is in memory once
        same = torch.equal(images, self.initial)
        self.ended_with, self.lowest = self.initial if same else images, lowest
        best = self.reports[self.best_stage].score
        if _outdoes(report, best, lowest):
            self.best_stage, self.images = report.index, self.ended_with
            self.targets = learnt_labels(self.source)

    def score(self, images: Tensor, *, first: bool) -> float | None:
        """Return the score of the images of all processes.

        Args:
            images: of this process.
            first: whether a stage begins: with the score of the last one, if its images are those
                that the last one ended with.
        """
        if first and self.reports:
            differs = not torch.equal(images.cpu(), self.ended_with)
            if not self.processes.any(differs):
                return self.reports[-1].score
        whole, labels = self.share.at_first(images), self.share.labels

        def scored() -> float | None:
            # asked in the first process alone, which has them
            return None if whole is None else self.selector(whole, labels)

        return self.processes.first(scored)


def _outdoes(report: StageReport, best: float | None, lowest: float) -> bool:
    """Return whether a stage is kept rather than the best before it, whose score is given."""
    if report.index == 0 or report.stage.final or report.score is None or best is None:
        return True
    return report.score < best or (report.best_step > 0 and near(report.score, lowest))
