"""The experiment on multi-index tasks: what few distilled points hold of them.

A reconstruction: of the paper that it follows only the abstract could be read; see
`hpd.theory.distillation`.
"""

from __future__ import annotations

from collections.abc import Callable

from hpd.rng import Streams
from hpd.theory.results import MultiIndexResult, checks_of
from hpd.theory.settings import MultiIndexSettings
from hpd.theory.trial import Trial

Report = Callable[[str, int, int], None]
"""Hears what was measured, how many of these are done, and how many there are."""


def measure(
    settings: MultiIndexSettings, seed: int = 0, report: Report = lambda name, done, total: None
) -> MultiIndexResult:
    """Make the experiment.

    - ``alignment``: the share of distilled points in the subspace, by the number of examples that
      were distilled.
    - ``points``: error of a student that learns its first layer from distilled points at a start
      of its own, by the number of points; the second layer is fitted to real examples. Beside it
      the network that learned its first layer from all examples, one that learned none, and one
      that learned it from real points.
    - ``floats``: error by all that is stored. Points and L labels, at the start that they were
      made for and at another; real examples that teach both layers; the network itself.

    Args:
        settings: sizes.
        seed: root of all randomness.
        report: hears of each task that is done.
    """
    streams, found = Streams(seed).fork("multi-index"), []
    works = [("alignment", settings.rank, k) for k in range(settings.seeds)]
    works += [("points", rank, k) for rank in settings.ranks for k in range(settings.seeds)]
    works += [("floats", settings.rank, k) for k in range(settings.seeds)]
    for done, (part, rank, k) in enumerate(works, start=1):
        trial = Trial(settings, rank, k, streams.fork(part, rank, k))
        found += getattr(trial, f"measure_{part}")()
        report(f"{part}, r = {rank}", done, len(works))
    return MultiIndexResult(settings, seed, found, checks_of(settings, found))
