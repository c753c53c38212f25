"""How well scores rank sets, and what each level of a run came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.evaluation.drawn.plots import as_png, blank_figure


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, equal values sharing theirs.

    Args:
        a: two values or more.
        b: as many.

    Returns:
        from -1 (opposite order) to 1 (the same order); nan if all values of either are equal.

    >>> rank_correlation([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    ranks = torch.stack([_ranks(values) for values in (a, b)])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    norms = centred.square().sum(dim=1).prod().sqrt()
    return float((centred[0] * centred[1]).sum() / norms)


def _ranks(values: Sequence[float]) -> Tensor:
    """Return the rank of each value, from 1; equal values get the mean of theirs."""
    x = torch.tensor(values, dtype=torch.float64)
    below = (x[None] < x[:, None]).sum(dim=1)
    equal = (x[None] == x[:, None]).sum(dim=1)
    return below + (equal + 1).double() / 2


@dataclass(frozen=True)
class LevelResult:
    """What one stage of a run came to.

    Args:
        name: of the stage; ``"start"`` for the source before its first step.
        accuracy_mean: percent of the test images, mean over students.
        accuracy_std: sample standard deviation over students, in points.
        distance: class-relevant feature distance.
    """

    name: str
    accuracy_mean: float
    accuracy_std: float
    distance: float


def levels_png(levels: Sequence[LevelResult]) -> bytes:
    """Return a picture of what each stage came to, as PNG: accuracy and distance by level."""
    figure = blank_figure(7, 4)
    left = figure.add_subplot()
    right = left.twinx()
    at = range(len(levels))
    means, stds = [p.accuracy_mean for p in levels], [p.accuracy_std for p in levels]
    left.errorbar(at, means, stds, color="tab:blue", marker="o", capsize=3)
    right.plot(at, [p.distance for p in levels], color="tab:orange", marker="s", linestyle="--")
    left.set_ylabel("accuracy %, mean and deviation over students", color="tab:blue")
    right.set_ylabel("class-relevant distance", color="tab:orange")
    left.set_xticks(list(at), [p.name for p in levels], rotation=30, ha="right")
    left.set_title("the set at the end of each level")
    return as_png(figure)
