"""The tables of a report that tell how a run went: stages, every score, and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpd.artifacts.costs import EVALUATION_LINES, LINES, as_cost, seconds_of
from hpd.artifacts.metrics import StageSteps
from hpd.showing import duration


@dataclass(frozen=True)
class StageRow:
    """What one stage came to."""

    name: str
    steps: int
    step: str
    kept: str
    score: str


def stage_rows(stages: Sequence[StageSteps]) -> list[StageRow]:
    """Return a row a stage: its steps, which state was kept, and the score of that."""
    return [
        StageRow(
            name=stage.name,
            steps=stage.steps,
            step=duration(stage.seconds / stage.steps) if stage.steps else "",
            kept=_kept(stage),
            score="" if stage.kept is None else _number(stage.kept.score),
        )
        for stage in stages
    ]


def _kept(stage: StageSteps) -> str:
    if stage.kept is None:
        return ""
    if stage.kept.skipped:
        return f"its start: skipped, for {stage.steps} steps brought nothing better"
    return f"after {stage.kept.step} steps"


@dataclass(frozen=True)
class MeasuredRow:
    """What was measured of one state."""

    stage: str
    step: int
    score: str
    fixed_loss: str
    kept: bool


def measured_rows(stages: Sequence[StageSteps]) -> list[MeasuredRow]:
    """Return a row for each state that was scored, or whose loss on fixed draws is known."""
    rows = []
    for stage in stages:
        scores, losses = dict(stage.scores), dict(stage.fixed_losses)
        kept = None if stage.kept is None else stage.kept.step
        rows += [
            MeasuredRow(
                stage.name, step, _number(scores.get(step)), _number(losses.get(step)), step == kept
            )
            for step in sorted({*scores, *losses})
        ]
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class CostRow:
    """What one part of a run took."""

    name: str
    time: str
    share: str


def cost_rows(cost: Mapping[str, float]) -> list[CostRow]:
    """Return a row for each line of `cost.json` that took any time, and the total of them."""
    seconds = seconds_of(cost)
    total = as_cost(seconds)["total_seconds"]
    if not total:
        return []
    rows = [
        CostRow(label, duration(seconds[name]), f"{seconds[name] / total:.1%}")
        for name, label in {**LINES, **EVALUATION_LINES}.items()
        if seconds.get(name)
    ]
    return [*rows, CostRow("total", duration(total), "100.0%")]
