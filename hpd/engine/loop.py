"""The loop: stages, a fresh optimiser each, the best state of each, the best stage of all."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.checks import check_finite
from hpd.engine.observer import Observer, StageReport, StepReport
from hpd.engine.optimizer import OptimizerSettings
from hpd.errors import NumericError
from hpd.typing import DrawsBatches, Objective, Selector, Source, Stage, State, Step

_DIVERGED = "Lower the learning rate, or leave out the level; the best state so far is kept."


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        images: the distilled images [N, C, H, W] in [0, 1] (nominally), on the CPU.
        labels: [N].
        initial_images: the source's images before its first step, likewise.
        best_stage: number of the stage that the images are from.
        stages: the report of each stage.
    """

    images: Tensor
    labels: Tensor
    initial_images: Tensor
    best_stage: int
    stages: Sequence[StageReport]


@dataclass
class _Best:
    """The best state seen in a stage. The state is a clone: the optimiser works in place."""

    state: State
    score: float | None
    step: int

    def offer(self, source: Source, score: float | None, step: int) -> None:
        """Keep the source's present state if it scores better, or if nothing is scored."""
        if score is None or self.score is None or score < self.score:
            self.state, self.score, self.step = source.state(), score, step


def optimise(
    source: Source,
    objective: Objective,
    selector: Selector,
    optimizer_settings: OptimizerSettings,
    observer: Observer,
    *,
    select_every: int,
) -> Outcome:
    """Run all stages of a source and return the best-scoring set.

    Each stage starts from the best state of the one before it, which is its first candidate:
    a stage whose steps only make things worse changes nothing.

    Args:
        source: what is optimised.
        objective: what it is matched to.
        selector: what it is scored by.
        optimizer_settings: the optimiser of each stage.
        observer: hears of every step and stage.
        select_every: steps between scores.

    Raises:
        NumericError: if loss or gradient is not finite.
    """
    reports: list[StageReport] = []
    initial = images = render_all(source)
    best_stage = 0
    for index, stage in enumerate(source.stages):
        report = _run_stage(
            source, objective, selector, optimizer_settings, observer, stage, index, select_every
        )
        reports.append(report)
        best = reports[best_stage].score
        if index == 0 or report.score is None or best is None or report.score < best:
            best_stage, images = index, render_all(source)
        observer.on_stage(report)
    return Outcome(images, source.labels.cpu(), initial, best_stage, reports)


def render_all(source: Source) -> Tensor:
    """Return every image of the source [N, C, H, W] on the CPU."""
    images, _ = source.render(torch.arange(len(source.labels), device=source.labels.device))
    return images.cpu()


def _run_stage(
    source: Source, objective: Objective, selector: Selector, settings: OptimizerSettings,
    observer: Observer, stage: Stage, index: int, select_every: int,
) -> StageReport:  # fmt: skip
    """Optimise one stage and leave the source in its best state."""
    optimizer = settings.build(source.enter(index))
    everything = torch.arange(len(source.labels), device=source.labels.device)
    best = _Best(source.state(), math.inf, 0)
    for i in range(stage.steps):
        started = time.perf_counter()
        step = Step(index, i)
        chosen = source.batch(step) if isinstance(source, DrawsBatches) else everything
        images, pullback = source.render(chosen)
        score = None
        if i % select_every == 0:
            # a part of the set would be scored by the luck of its draw
            whole = images if chosen is everything else render_all(source).to(images.device)
            score = selector(whole, source.labels)
            best.offer(source, score, i)
        matched = objective(images, source.labels[chosen], step)
        where = f"at step {i} of stage {stage.name!r}"
        if not math.isfinite(matched.loss):
            raise NumericError(f"the loss is not finite {where}", got=matched.loss, fix=_DIVERGED)
        check_finite(matched.image_grad, f"the image gradient {where}", _DIVERGED)
        optimizer.zero_grad()
        pullback(matched.image_grad)
        optimizer.step()
        seconds = time.perf_counter() - started
        observer.on_step(StepReport(stage, step, matched.loss, score, matched.metrics, seconds))
    last = render_all(source).to(source.labels.device)
    check_finite(last, f"the images after stage {stage.name!r}", _DIVERGED)
    best.offer(source, selector(last, source.labels), stage.steps)
    source.load_state(best.state)
    return StageReport(stage, index, best.step, best.score, best.state)
