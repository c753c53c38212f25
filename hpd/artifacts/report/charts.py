"""Curves over the steps of a run, in percent of their frame, for a template to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from hpd.artifacts.metrics import StageSteps

_MOST_POINTS = 600
_HEADROOM = 0.06
# the loss of a step hangs on its draws: its mean over a tenth of the stage shows where it goes
_MEAN_FROM = 20
_MEAN_PART = 10
# from this ratio of largest to smallest value on, the axis is logarithmic
_LOG_FROM = 30.0


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
        front: likewise what is drawn before them, which then are faint; empty: nothing.
        note: what the lines are, for who sees two.
        points: values of the curve that are marked.
        dots: likewise, those of the states that were kept.
        bands: the stages.
        x_ticks: steps.
        y_ticks: values.
        is_log: whether the axis of values is logarithmic.
    """

    title: str
    description: str
    lines: list[str]
    front: list[str]
    note: str
    points: list[Mark]
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


_Line = Sequence[tuple[int, float]]
"""Steps of a run and a value at each."""


def loss_chart(stages: Sequence[StageSteps]) -> Chart | None:
    """Return the curve of the loss, None where there is no step.

    The loss on fixed draws, with those of the steps behind it; where it was not measured, running
    means of these.
    """
    behind = [[(stage.start + i, loss) for i, loss in enumerate(stage.losses)] for stage in stages]
    fixed = [_placed(stage, stage.fixed_losses) for stage in stages]
    if any(fixed):
        note = "on draws that are always the same; behind it each step, on draws of its own"
        return _chart("Loss of the objective", stages, fixed, behind, note=note)
    means = [running_mean(line) if len(line) >= _MEAN_FROM else [] for line in behind]
    note = "each step, and their running mean" if any(means) else ""
    return _chart("Loss of the objective", stages, means, behind, note=note)


def score_chart(stages: Sequence[StageSteps]) -> Chart | None:
    """Return the curve of every score, with the kept ones; None where nothing is scored."""
    kept = [
        (s.start + s.kept.step, s.kept.score, s.name)
        for s in stages
        if s.kept is not None and s.kept.score is not None
    ]
    lines = [_placed(stage, stage.scores) for stage in stages]
    title = "Score by which a state is kept, the lower the better"
    return _chart(title, stages, lines, points=True, kept=kept)


def _placed(stage: StageSteps, values: _Line) -> list[tuple[int, float]]:
    return [(stage.start + step, value) for step, value in values]


def _chart(
    title: str,
    stages: Sequence[StageSteps],
    front: Sequence[_Line],
    behind: Sequence[_Line] = (),
    *,
    note: str = "",
    points: bool = False,
    kept: Sequence[tuple[int, float, str]] = (),
) -> Chart | None:
    values = [value for line in (front if any(front) else behind) for _, value in line]
    if not values:
        return None
    total = max(1, sum(stage.steps for stage in stages))
    axis = _Axis([value for line in (*front, *behind) for _, value in line])

    def at(step: float) -> float:
        return round(100 * step / total, 3)

    def drawn(lines: Sequence[_Line]) -> list[str]:
        parts = [[f"{at(step)},{axis.top(v):.2f}" for step, v in thin(line)] for line in lines]
        return [" ".join(part) for part in parts if part]

    def mark(step: int, value: float, text: str) -> Mark:
        return Mark(f"{text}{value:.4g} after {step} steps", at(step), round(axis.top(value), 2))

    return Chart(
        title=title,
        description=f"From {values[0]:.4g} to {values[-1]:.4g} in {total} steps; "
        f"lowest {min(values):.4g}, highest {max(values):.4g}.",
        lines=drawn(behind or front),
        front=drawn(front) if behind else [],
        note=note,
        points=[mark(*point, "") for line in front for point in thin(line)] if points else [],
        dots=[mark(step, value, f"kept of {name}: ") for step, value, name in kept],
        bands=[Band(s.name, at(s.start), at(s.steps)) for s in stages],
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
