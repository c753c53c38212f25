"""What `metrics.jsonl` says: a line a step, and one after each stage about what was kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.artifacts.run_folder import METRICS, RunFolder
from hpd.disk.files import parse_json
from hpd.errors import RunError


@dataclass(frozen=True)
class Kept:
    """Which state of a stage was kept.

    Args:
        step: number of steps before it.
        score: of it, None where nothing is scored.
        skipped: whether the stage ended with its trial, as nothing in it scored better.
    """

    step: int
    score: float | None
    skipped: bool = False


@dataclass(frozen=True)
class StageSteps:
    """What `metrics.jsonl` says of one stage.

    Args:
        name: of the stage.
        start: number of steps before it.
        losses: of each step.
        scores: step within the stage and score, where it was scored; the last after all steps.
        fixed_losses: likewise, the loss on fixed draws.
        kept: which state; None for a stage that is not finished, or of an earlier version.
        seconds: wall time of the steps.
    """

    name: str
    start: int
    losses: list[float]
    scores: list[tuple[int, float]]
    fixed_losses: list[tuple[int, float]]
    kept: Kept | None
    seconds: float

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.losses)


def read_metrics(folder: RunFolder) -> list[StageSteps] | None:
    """Return what the metrics of a run say; None where it has none.

    Raises:
        RunError: if they cannot be read.
    """
    path = folder.path / METRICS
    if not path.is_file():
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
        return read_stages([parse_json(line) for line in lines])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from None


def read_stages(lines: Sequence[Mapping[str, Any]]) -> list[StageSteps]:
    """Group the lines of `metrics.jsonl` by stage.

    Raises:
        KeyError, TypeError, ValueError: if a line is none of it.
    """
    stages, start = [], 0
    for own in _by_stage(lines):
        steps = [line for line in own if line["loss"] is not None]
        ends = [line for line in own if line["loss"] is None]
        stages.append(
            StageSteps(
                name=str(own[0]["stage"]),
                start=start,
                losses=[float(line["loss"]) for line in steps],
                scores=_measured(own, "score"),
                fixed_losses=_measured(own, "fixed_loss"),
                kept=_kept(ends[-1]) if ends else None,
                seconds=sum(float(line["seconds"]) for line in steps),
            )
        )
        start += len(steps)
    return stages


def _by_stage(lines: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group lines; the one after a stage has no step, and so no loss."""
    groups: list[list[Mapping[str, Any]]] = []
    for line in lines:
        before = groups[-1][-1] if groups else None
        same = before is not None and before["stage"] == line["stage"]
        if before is None or not same or before["loss"] is None:
            groups.append([])
        groups[-1].append(line)
    return groups


def _measured(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    found = [line for line in lines if line.get(name) is not None]
    return [(int(line["step"]), float(line[name])) for line in found]


def _kept(line: Mapping[str, Any]) -> Kept:
    score = line["best_score"]
    skipped = bool(line.get("skipped", False))
    return Kept(int(line["best_step"]), None if score is None else float(score), skipped)
