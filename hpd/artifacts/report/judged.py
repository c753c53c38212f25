"""The evaluations of a run as its report shows them."""

from __future__ import annotations

from dataclasses import dataclass

from hpd.artifacts.evaluations import records_of
from hpd.artifacts.judging import judged_text
from hpd.artifacts.report.tables import (
    SCORE_LEGEND,
    SCORES,
    AccuracyRow,
    Likeness,
    accuracy_rows,
    legend,
    likeness,
    whole_set_line,
)
from hpd.disk.files import parse_json


@dataclass(frozen=True)
class Judged:
    """One evaluation, for a table.

    Args:
        name: of the record.
        how: what it was judged by, in one line.
        rows: the table.
        likeness: of the images.
        whole: what the same students come to on the whole set, in one line.
        remarks: what readers of the rows should know, a line each.
    """

    name: str
    how: str
    rows: list[AccuracyRow]
    likeness: Likeness
    whole: str
    remarks: list[str]

    @property
    def scores(self) -> dict[str, str]:
        """Headings of the scores that a row has."""
        rows = self.rows
        return {k: v for k, v in SCORES.items() if any(r.scores[k] is not None for r in rows)}

    @property
    def soft(self) -> bool:
        """Whether students learn from anything but classes."""
        return any(row.labels != "hard" for row in self.rows)

    @property
    def score_legend(self) -> str:
        """What its scores say."""
        return SCORE_LEGEND

    @property
    def legend(self) -> str:
        """What its rows are."""
        return legend(row.name for row in self.rows)


def read_evaluations(text: str) -> list[Judged]:
    """Return the evaluations in an `evaluation.json`, the newest first.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is none.
    """
    return [
        Judged(
            str(record["name"]),
            judged_text(record),
            accuracy_rows(record),
            likeness(record),
            whole_set_line(record.get("whole_sets", [])),
            [str(line) for line in record.get("remarks", [])],
        )
        for record in reversed(records_of(parse_json(text)))
    ]
