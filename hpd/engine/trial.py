"""Trials of stages: which go on, and what those get that come after one that does not."""

from __future__ import annotations

from collections.abc import Sequence

from hpd.engine.watching.observer import Measured
from hpd.typing import Stage


def allotted(stages: Sequence[Stage], taken: Sequence[int]) -> int:
    """Return the steps of the stage after those that are finished.

    What stages left that ended with their trial is shared by those after them that have one, in
    proportion to their own steps.

    Args:
        stages: all.
        taken: the steps that each of the finished ones took.

    >>> stages = [Stage("a", 10, trial=2), Stage("b", 10, trial=2), Stage("c", 20, trial=2)]
    >>> allotted(stages, []), allotted(stages, [2]), allotted(stages, [2, 12])
    (10, 12, 26)
    """
    stage, after = stages[len(taken)], stages[len(taken) :]
    if stage.trial is None:
        return stage.steps
    left = sum(own.steps for own in stages) - sum(taken)
    fixed = sum(own.steps for own in after if own.trial is None)
    trying = sum(own.steps for own in after if own.trial is not None)
    return (left - fixed) * stage.steps // trying if trying else stage.steps


def pays(measured: Sequence[Measured]) -> bool:
    """Return whether a state of a trial scored better than the one that it started from.

    Where nothing is scored, nothing can be said against it.

    Args:
        measured: of the states so far, that before the first step first.

    >>> pays([Measured(0, 0.5), Measured(5, 0.6)]), pays([Measured(0, 0.5), Measured(5, 0.4)])
    (False, True)
    """
    scores = [own.score for own in measured if own.score is not None]
    return not scores or min(scores) < scores[0]
