"""Whether the figures of an evaluation come out again, and what was other than it was if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpd.disk.yaml_text import flatten
from hpd.evaluation.rows import Row

EQUAL, WITHIN, APART, MISSING, UNKNOWN = "equal", "within", "apart", "not made", "cannot be told"
"""What may be said of a figure that was measured again."""
_ERRORS = 2
# paths, which lie elsewhere elsewhere
_PLACES = {"teacher"}
_ABOUT = ("device", "float32")


@dataclass(frozen=True)
class Figure:
    """An accuracy that was stated, and the same measured again.

    Args:
        set: name of the row; see `hpd.evaluation.Row`.
        network: name of the student.
        stated: percent, mean over students.
        again: the same, measured anew; None where it was not.
        allowed: points by which the two may differ elsewhere: two standard errors of their
            difference, from the deviations of both; None for a single student, who has none.
        verdict: ``equal``, to the last digit for each student; ``within`` what is allowed;
            ``apart``; ``not made``; ``cannot be told``, for single students that differ.
    """

    set: str
    network: str
    stated: float
    again: float | None
    allowed: float | None
    verdict: str


def figures(stated: Sequence[Row], again: Sequence[Row]) -> list[Figure]:
    """Compare the rows of an evaluation with those of the same one made anew."""
    found = {(row.name, row.network): row for row in again}
    return [_figure(row, found.get((row.name, row.network))) for row in stated]


def _figure(row: Row, other: Row | None) -> Figure:
    if other is None:
        return Figure(row.name, row.network, row.accuracy_mean, None, None, MISSING)
    count, counted = len(row.seeds), len(other.seeds)
    allowed = None
    if min(count, counted) > 1:
        squares = row.accuracy_std**2 / count + other.accuracy_std**2 / counted
        allowed = round(_ERRORS * squares**0.5, 4)
    same = (row.accuracies or [row.accuracy_mean]) == (
        other.accuracies if row.accuracies else [other.accuracy_mean]
    )
    if same:
        verdict = EQUAL
    elif allowed is None:
        verdict = UNKNOWN
    else:
        apart = abs(row.accuracy_mean - other.accuracy_mean) > allowed
        verdict = APART if apart else WITHIN
    return Figure(row.name, row.network, row.accuracy_mean, other.accuracy_mean, allowed, verdict)


def surroundings(stated: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what was other than it was: versions, machine, data, options, as (stated, again).

    Args:
        stated: the record of an evaluation.
        again: that of the same one made anew.
    """
    before, after = _facts(stated), _facts(again)
    names = [name for name in {**before, **after} if name in before or name.startswith("options")]
    return {
        name: (before.get(name, "not said"), after.get(name, "not said"))
        for name in names
        if before.get(name) != after.get(name)
    }


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    settings = record.get("settings") or {}
    nested = {
        **{f"version of {k}": v for k, v in (record.get("versions") or {}).items()},
        **(record.get("machine") or {}),
        **{k: record[k] for k in _ABOUT if k in record},
        **{k: v for k, v in (record.get("data") or {}).items() if k.endswith("sha256")},
        **{f"options.{k}": v for k, v in flatten(settings).items() if k not in _PLACES},
    }
    return {name: str(value) for name, value in nested.items()}
