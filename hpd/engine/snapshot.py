"""How far a run has come: all that going on from there needs, besides settings and data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from hpd.artifacts.shards import Kept
from hpd.engine.watching.observer import Measured, StageReport
from hpd.typing import Score, Source


@dataclass
class Best:
    """The state of a stage to keep. It is a clone: the optimiser works in place.

    Args:
        state: of the source: what this process has of it.
        score: of that state, None where nothing is scored.
        step: number of optimiser steps of the stage before it.
        lowest: score so far, of this stage and those before it.
    """

    state: Mapping[str, Kept]
    score: float | None
    step: int
    lowest: float = math.inf

    def offer(
        self, source: Source, score: float | None, step: int, *, clearly: bool = False
    ) -> None:
        """Keep the source's present state if it scores better, or if nothing is scored.

        Or if it scores as good as the lowest within its margin: later states have taken more
        steps, and what a score cannot tell is no reason to undo them. `clearly` asks for a better
        score.
        """
        if score is None or self.score is None:
            kept = True
        else:
            kept = score < self.score if clearly else outdoes(score, self.score, self.lowest)
        if kept:
            self.state, self.score, self.step = source.state(), score, step
        if score is not None:
            self.lowest = min(self.lowest, score)


def outdoes(score: float, kept: float, lowest: float) -> bool:
    """Return whether a later score is kept in place of another one, by the lowest score so far."""
    return score < kept or near(score, lowest)


def near(score: float, lowest: float) -> bool:
    """Return whether a score with a margin is within it of the lowest."""
    return margin_of(score) > 0 and score - margin_of(score) <= lowest


def margin_of(score: float | None) -> float:
    """Return the margin of a score, 0 without one."""
    return score.margin if isinstance(score, Score) else 0.0


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, or after a stage.

    All draws are derived from the step they are for, so there is no random state to keep. One that
    is taken holds what this process has, in memory; one that is gone on with all there is, of which
    each process reads its own.

    Args:
        stage: number of the stage that the source is in.
        steps: optimiser steps taken in that stage.
        source: state of the source; after a stage, its best one.
        objective: state of the objective.
        optimizer: tensors of the stage's optimiser; empty after a stage.
        rates: its learning rate for each tensor that it moves; likewise.
        best: the best of the stage so far.
        reports: of the finished stages; with `stage` among them, this was taken after it.
        best_stage: number of the best of these.
        images: its images [N, C, H, W] in [0, 1], on the CPU.
        initial_images: the source's images before its first step, likewise.
        targets: the learnt labels [N, K] of `images`, likewise; None: there are none.
        measured: of the states of the stage so far; after it, nothing.
        seconds: what the parts of the run took so far, by `hpd.artifacts.costs.LINES`; see
            `hpd.engine.watching.cost`.
        parts: number of parts in which the run was taken so far.
        places: of what this process has a part of: the place in the whole of each of its rows, by
            the names that tensors have in a checkpoint.
    """

    stage: int
    steps: int
    source: Mapping[str, Kept]
    objective: Mapping[str, Kept]
    optimizer: Mapping[str, Kept]
    rates: tuple[float, ...]
    best: Best
    reports: tuple[StageReport, ...]
    best_stage: int
    images: Kept
    initial_images: Kept
    targets: Kept | None = None
    measured: tuple[Measured, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    parts: int = 1
    places: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def after_stage(self) -> bool:
        """Whether the stage is finished."""
        return len(self.reports) > self.stage


CHECKPOINT = 1
"""What a keeper asks for that wants a checkpoint; more than that is a signal."""


class Keeper(Protocol):
    """Decides when a run is written down, writes it, and may end the run thereafter."""

    def asks(self) -> int:
        """Return what it wants after a step: 0, `CHECKPOINT`, or the number of a signal to end.

        Of several processes the largest number counts. What went wrong since is raised here.
        """
        ...

    def after_step(self, steps: int, take: Callable[[], Snapshot], agreed: int) -> None:
        """Hear that a stage has taken `steps` steps; `take` returns the snapshot.

        Args:
            steps: of the stage.
            take: returns the snapshot.
            agreed: the largest of what the keepers of all processes asked for.
        """
        ...

    def after_stage(self, take: Callable[[], Snapshot]) -> None:
        """Hear that a stage is finished, and the source in its best state."""
        ...

    def finish(self) -> None:
        """Hear that the run is at its end, with which all is to be written."""
        ...

    def leave(self) -> None:
        """Hear that the run ends by an error."""
        ...


class KeepsNothing:
    """The keeper of a run that is not written down."""

    def asks(self) -> int:
        """Want nothing."""
        return 0

    def after_step(self, steps: int, take: Callable[[], Snapshot], agreed: int) -> None:
        """Do nothing."""

    def after_stage(self, take: Callable[[], Snapshot]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""
