"""What a course came to: accuracy by step, as a table, JSON and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpd.evaluation.drawn.plots import as_png, blank_figure

CAPTION = (
    "Accuracy in percent after so many classes, on the test images of all of them: mean and "
    "standard deviation over the orders of the classes. Images and floats are those of the end."
)


@dataclass(frozen=True)
class Cell:
    """One buffer after one step of one order.

    Args:
        order: number of the order.
        step: from 0.
        buffer: name.
        classes: all that were seen so far, in the order in which they came.
        images: in the buffer, of all these classes.
        stored_floats: that they count for.
        accuracies: percent, of each student; architectures one after another.
    """

    order: int
    step: int
    buffer: str
    classes: list[str]
    images: int
    stored_floats: int
    accuracies: list[float]

    @property
    def accuracy(self) -> float:
        """Mean over students."""
        return statistics.fmean(self.accuracies)


@dataclass(frozen=True)
class Line:
    """One buffer over all steps.

    Args:
        buffer: name.
        orders: of the classes.
        images: in the end, mean over orders.
        stored_floats: in the end, mean over orders.
        steps: mean accuracy after each step, and deviation over orders (0 for one order).
        mean: accuracy, mean over steps, and its deviation over orders.
        gain: of that mean over the first buffer of random images in the same order, mean over
            orders; None without such a buffer, and for it.
        gain_sem: standard error of `gain`; None for one order.
    """

    buffer: str
    orders: int
    images: float
    stored_floats: float
    steps: list[tuple[float, float]]
    mean: tuple[float, float]
    gain: float | None = None
    gain_sem: float | None = None


def summarise(cells: Sequence[Cell], baseline: str | None) -> list[Line]:
    """Return a line for each buffer.

    Args:
        cells: of a finished course.
        baseline: name of the buffer that gains are over; None: there is none.
    """
    names = list(dict.fromkeys(cell.buffer for cell in cells))
    courses = {name: _courses([cell for cell in cells if cell.buffer == name]) for name in names}
    lines = []
    for name in names:
        own = courses[name]
        means = [statistics.fmean(cell.accuracy for cell in course) for course in own]
        gains: list[float] = []
        if baseline is not None and name != baseline:
            theirs = [statistics.fmean(c.accuracy for c in course) for course in courses[baseline]]
            gains = [a - b for a, b in zip(means, theirs, strict=True)]
        lines.append(
            Line(
                buffer=name,
                orders=len(own),
                images=statistics.fmean(course[-1].images for course in own),
                stored_floats=statistics.fmean(course[-1].stored_floats for course in own),
                steps=[_spread([c.accuracy for c in column]) for column in zip(*own, strict=True)],
                mean=_spread(means),
                gain=statistics.fmean(gains) if gains else None,
                gain_sem=_spread(gains)[1] / len(gains) ** 0.5 if len(gains) > 1 else None,
            )
        )
    return lines


def _courses(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells of each order, in the order of the steps."""
    orders = sorted({cell.order for cell in cells})
    return [
        sorted((c for c in cells if c.order == order), key=lambda cell: cell.step)
        for order in orders
    ]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table_of(lines: Sequence[Line], classes_per_step: int) -> list[list[str]]:
    """Return a table of text, headings first."""
    count = len(lines[0].steps)
    steps = [str((step + 1) * classes_per_step) for step in range(count)]
    rows = [["buffer", "images", "floats", *steps, "mean", "over random"]]
    for line in lines:
        cells = [
            f"{mean:.1f}" if line.orders == 1 else f"{mean:.1f} \u00b1 {std:.1f}"
            for mean, std in [*line.steps, line.mean]
        ]
        gain = "" if line.gain is None else f"{line.gain:+.1f}"
        gain += "" if line.gain_sem is None else f" (se {line.gain_sem:.1f})"
        rows.append([line.buffer, f"{line.images:g}", f"{line.stored_floats:,.0f}", *cells, gain])
    return rows


def markdown(lines: Sequence[Line], classes_per_step: int) -> str:
    """Return the table as Markdown, with what its figures are."""
    heading, *rows = table_of(lines, classes_per_step)
    text = [heading, ["---"] * len(heading), *rows]
    body = "\n".join("| " + " | ".join(row) + " |" for row in text)
    return f"{body}\n\n{CAPTION}\n"


def as_json(lines: Sequence[Line], cells: Sequence[Cell]) -> dict[str, Any]:
    """Return all numbers."""
    return {
        "caption": CAPTION,
        "lines": [asdict(line) for line in lines],
        "cells": [asdict(cell) for cell in cells],
    }


def picture(lines: Sequence[Line], classes_per_step: int) -> bytes:
    """Return a picture as PNG: accuracy by the number of classes seen, a curve a buffer."""
    figure = blank_figure(7, 4.5)
    axes = figure.add_subplot()
    seen = [(step + 1) * classes_per_step for step in range(len(lines[0].steps))]
    for number, line in enumerate(lines):
        means, deviations = zip(*line.steps, strict=True)
        # side by side, so that bars do not hide each other
        at = [x + (number - (len(lines) - 1) / 2) * 0.04 * classes_per_step for x in seen]
        label = f"{line.buffer}: {line.images:g} images, {line.stored_floats:,.0f} floats"
        axes.errorbar(at, means, deviations, marker="o", ms=4, capsize=2, label=label)
    axes.set_xticks(seen)
    axes.set_xlabel("classes seen so far")
    axes.set_ylabel("accuracy % on all of them")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return as_png(figure)
