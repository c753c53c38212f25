"""The tables of a report: accuracies, cost and provenance, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.artifacts.report.charts import StageSteps

ROW_LABELS = {
    "distilled": "distilled",
    "initial": "source before its first step",
    "random_real": "random real images",
    "random_real_floats": "random real images of as many floats",
    "full": "whole training set",
}


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the table of accuracies; percents of the test images."""

    name: str
    label: str
    network: str
    images_per_class: float
    stored_floats: int
    mean: float
    std: float
    students: int

    @property
    def low(self) -> float:
        """Where the bar of the standard deviation begins."""
        return max(0.0, self.mean - self.std)

    @property
    def high(self) -> float:
        """Where it ends."""
        return min(100.0, self.mean + self.std)


def accuracy_rows(evaluation: Mapping[str, Any]) -> list[AccuracyRow]:
    """Return the rows of `evaluation.json`.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    return [
        AccuracyRow(
            name=str(row["name"]),
            label=ROW_LABELS.get(row["name"], str(row["name"]).replace("_", " ")),
            network=str(row["network"]),
            images_per_class=float(row["images_per_class"]),
            stored_floats=int(row["stored_floats"]),
            mean=float(row["accuracy_mean"]),
            std=float(row["accuracy_std"]),
            students=len(row["seeds"]),
        )
        for row in evaluation["rows"]
    ]


@dataclass(frozen=True)
class CostRow:
    """What one stage took."""

    name: str
    steps: int
    step: str
    score: str
    total: str
    best: str


def cost_rows(stages: Sequence[StageSteps]) -> list[CostRow]:
    """Return the cost of each stage, and its best score among those on the way."""
    return [
        CostRow(
            name=stage.name,
            steps=len(stage.losses),
            step=duration(stage.seconds / max(1, len(stage.losses))),
            score=duration(stage.score_seconds),
            total=duration(stage.seconds + stage.score_seconds),
            best="" if stage.best is None else f"{stage.best[1]:.4g} after {stage.best[0]}",
        )
        for stage in stages
    ]


def duration(seconds: float) -> str:
    """Return a length of time in the units that suit it.

    >>> duration(0.0123), duration(3.21), duration(157), duration(8000)
    ('12 ms', '3.2 s', '2 min 37 s', '2 h 13 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as text, with dots in their names.

    >>> flat({"generator": {"name": "digits16"}, "levels": [1, 2]})
    {'generator.name': 'digits16', 'levels': '1, 2'}
    """
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[prefix + name] = ", ".join(str(part) for part in value)
        else:
            found[prefix + name] = str(value)
    return found
