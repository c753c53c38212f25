"""Curves over the steps of a run, in percent of their frame, for a template to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

_MOST_POINTS = 600
_HEADROOM = 0.06
# the loss of a step hangs on its draws: its mean over a tenth of the stage shows where it goes
_MEAN_FROM = 20
_MEAN_PART = 10
# from this ratio of largest to smallest value on, the axis is logarithmic
_LOG_FROM = 30.0


@dataclass(frozen=True)
class StageSteps:
    """What `metrics.jsonl` says of one stage.

    Args:
        name: of the stage.
        start: number of steps before it.
        losses: of each step.
        scores: step within the stage and score, where it was scored.
        seconds: wall time of the steps.
        score_seconds: wall time of the scores.
    """

    name: str
    start: int
    losses: list[float]
    scores: list[tuple[int, float]]
    seconds: float
    score_seconds: float

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and score of the lowest score, the first of several."""
        return min(self.scores, key=lambda pair: pair[1], default=None)


def read_stages(lines: Sequence[dict[str, Any]]) -> list[StageSteps]:
    """Group the lines of `metrics.jsonl` by stage.

    Raises:
        KeyError, TypeError, ValueError: if a line is none of it.
    """
    stages, start = [], 0
    for name, group in groupby(lines, key=lambda line: line["stage"]):
        own = list(group)
        scored = [line for line in own if line["score"] is not None]
        stages.append(
            StageSteps(
                name=str(name),
                start=start,
                losses=[float(line["loss"]) for line in own],
                scores=[(int(line["step"]), float(line["score"])) for line in scored],
                seconds=sum(float(line["seconds"]) for line in own),
                score_seconds=sum(float(line.get("score_seconds", 0)) for line in own),
            )
        )
        start += len(own)
    return stages


@dataclass(frozen=True)
class Mark:
    """A label or a point in a frame, at percents from the left and from the top."""

    text: str
    left: float = 0.0
    top: float = 0.0


@dataclass(frozen=True)
class Band:
    """A stage in a frame: percents from the left, and its width."""

    name: str
    left: float
    width: float


@dataclass(frozen=True)
class Chart:
    """One curve, drawn stage by stage.

    Args:
        title: what is drawn.
        description: the same in a sentence, with its first and last values, for who cannot see it.
        lines: points of each stage, as SVG's `points` in a frame of 100 x 100.
        means: likewise their running means; empty where the values are drawn by themselves.
        dots: values that are drawn by themselves.
        bands: the stages.
        x_ticks: steps.
        y_ticks: values.
        is_log: whether the axis of values is logarithmic.
    """

    title: str
    description: str
    lines: list[str]
    means: list[str]
    dots: list[Mark]
    bands: list[Band]
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    is_log: bool = False


@dataclass
class _Axis:
    """Maps values to percents of a frame."""

    values: Sequence[float]
    is_log: bool = False
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        smallest, largest = min(self.values), max(self.values)
        self.is_log = smallest > 0 and largest / smallest > _LOG_FROM
        low, high = self._scaled(smallest), self._scaled(largest)
        margin = (high - low) * _HEADROOM or abs(high) * _HEADROOM or 1.0
        self.low, self.high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def top(self, value: float) -> float:
        """Return percents from the top."""
        return 100 * (self.high - self._scaled(value)) / (self.high - self.low)

    def ticks(self) -> list[Mark]:
        """Return round values, about five of them."""
        if self.is_log:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            values = [10.0**n for n in decades[:: math.ceil(len(decades) / 6) or 1]]
            if len(values) < 3:
                values = [m * 10.0**n for n in range(decades.start - 1, decades.stop + 1)
                          for m in (1, 2, 5)]  # fmt: skip
            values = [v for v in values if self.low <= math.log10(v) <= self.high]
        else:
            values = round_values(self.low, self.high)
        return [Mark(f"{value:.4g}", top=round(self.top(value), 3)) for value in values]


def round_values(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` + 1 multiples of 1, 2 or 5 times a power of ten from low to high.

    >>> round_values(0.3, 2.2)
    [0.5, 1.0, 1.5, 2.0]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def loss_chart(stages: Sequence[StageSteps]) -> Chart | None:
    """Return the curve of the loss, None where there is no step."""
    series = [[(stage.start + i, loss) for i, loss in enumerate(stage.losses)] for stage in stages]
    return _chart("Loss of the objective", stages, series, smooth=True)


def score_chart(stages: Sequence[StageSteps]) -> Chart | None:
    """Return the curve of the score, with the best of each stage, None where nothing is scored."""
    series = [[(stage.start + step, score) for step, score in stage.scores] for stage in stages]
    best = [(s.start + s.best[0], s.best[1], s.name) for s in stages if s.best is not None]
    return _chart("Score by which a state is kept, the lower the better", stages, series, best)


def _chart(
    title: str,
    stages: Sequence[StageSteps],
    series: Sequence[Sequence[tuple[int, float]]],
    points: Sequence[tuple[int, float, str]] = (),
    *,
    smooth: bool = False,
) -> Chart | None:
    values = [value for line in series for _, value in line]
    if not values:
        return None
    total = max(1, sum(len(stage.losses) for stage in stages))
    axis = _Axis(values)

    def at(step: float) -> float:
        return round(100 * step / total, 3)

    def drawn(line: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{at(step)},{axis.top(value):.2f}" for step, value in thin(line))

    return Chart(
        title=title,
        description=f"From {values[0]:.4g} to {values[-1]:.4g} in {total} steps; "
        f"lowest {min(values):.4g}, highest {max(values):.4g}.",
        lines=[drawn(line) for line in series if line],
        means=[drawn(running_mean(line)) for line in series if smooth and len(line) >= _MEAN_FROM],
        dots=[
            Mark(f"{name}: {value:.4g} after {step} steps", at(step), round(axis.top(value), 2))
            for step, value, name in points
        ],
        bands=[Band(s.name, at(s.start), at(len(s.losses))) for s in stages],
        x_ticks=[Mark(f"{step:,.0f}", at(step)) for step in round_values(0, total)],
        y_ticks=axis.ticks(),
        is_log=axis.is_log,
    )


def running_mean(line: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at each step the mean of the values around it: a tenth of the line, less at its ends.

    >>> running_mean([(0, 1.0), (1, 2.0), (2, 6.0)])
    [(0, 1.5), (1, 3.0), (2, 4.0)]
    """
    reach = max(1, len(line) // _MEAN_PART // 2)
    sums = [0.0, *accumulate(value for _, value in line)]
    means = []
    for i, (step, _) in enumerate(line):
        first, last = max(0, i - reach), min(len(line), i + reach + 1)
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means


def thin(line: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most about `_MOST_POINTS` points: lowest and highest of each stretch.

    >>> len(thin([(i, float(i % 7)) for i in range(10_000)])) <= 600
    True
    """
    if len(line) <= _MOST_POINTS:
        return list(line)
    stretch = math.ceil(len(line) / (_MOST_POINTS // 2))
    kept: list[tuple[int, float]] = []
    for start in range(0, len(line), stretch):
        part = line[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept
