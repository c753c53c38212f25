"""What a run took, as `cost.json` tells it: seconds by line, which sum to the total."""

from __future__ import annotations

from collections.abc import Mapping

LINES = {
    "data": "reading the data",
    "start": "the source before its first step",
    "objective": "what the objective needs: teacher, experts, networks",
    "selector": "what the selection needs before its first score",
    "steps": "steps",
    "scores": "scores of the selection",
    "curves": "the loss on fixed draws",
    "checkpoints": "checkpoints",
    "results": "writing the result",
    "other": "everything else",
}
"""What the parts of a distillation are called, and what people are told."""

EVALUATION_LINES = {
    "students": "evaluation: students of the set",
    "baselines": "evaluation: students of the baselines",
    "evaluation": "evaluation: everything else",
}
"""Likewise, the parts of all evaluations of a run."""

SELECTION = ("selector", "scores")
_DIGITS = 3


def as_cost(
    seconds: Mapping[str, float], *, parts: int = 1, peak_bytes: int | None = None
) -> dict[str, float]:
    """Return what `cost.json` holds.

    Each line is there as ``<line>_seconds``; they sum to `total_seconds`, and those of the
    distillation to `seconds`. `selection_seconds` are those of `SELECTION`, and `selection_share`
    is their share of `seconds`.

    Args:
        seconds: by line of `LINES` and `EVALUATION_LINES`; a line that is missing took none.
        parts: number of parts in which the run was taken.
        peak_bytes: the most memory that the process had; None: the device does not tell.

    >>> cost = as_cost({"steps": 3.0, "scores": 1.0, "students": 2.0})
    >>> cost["seconds"], cost["selection_share"], cost["total_seconds"]
    (4.0, 0.25, 6.0)
    """
    lines = {n: round(seconds.get(n, 0.0), _DIGITS) for n in (*LINES, *EVALUATION_LINES)}
    distilling = round(sum(lines[name] for name in LINES), _DIGITS)
    selection = round(sum(lines[name] for name in SELECTION), _DIGITS)
    memory = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
    return {
        "seconds": distilling,
        "selection_seconds": selection,
        "selection_share": round(selection / distilling, 4) if distilling else 0.0,
        "parts": parts,
        **{f"{name}_seconds": value for name, value in lines.items()},
        "total_seconds": round(sum(lines.values()), _DIGITS),
        **memory,
    }


def seconds_of(cost: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each line, from what `as_cost` gave.

    Runs of earlier versions told `seconds` and `selection_seconds` alone.

    >>> seconds_of({"seconds": 3.0, "selection_seconds": 1.0})
    {'scores': 1.0, 'other': 2.0}
    """
    known = {n: cost[f"{n}_seconds"] for n in (*LINES, *EVALUATION_LINES) if f"{n}_seconds" in cost}
    if known or "seconds" not in cost:
        return known
    scores = cost.get("selection_seconds", 0.0)
    return {"scores": scores, "other": cost["seconds"] - scores}
