"""Tables of the experiment on multi-index tasks: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from hpd.theory.results import RECONSTRUCTION, Measured, MultiIndexResult

_X = {"alignment": "examples n", "points": "points m", "floats": "stored floats"}
_VALUE = {"alignment": "alignment", "points": "error", "floats": "error"}


def as_csv(measured: Sequence[Measured]) -> str:
    """Return all numbers, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Measured)]
    writer.writerow(names)
    writer.writerows([getattr(one, name) for name in names] for one in measured)
    return text.getvalue()


def check_table(result: MultiIndexResult) -> list[list[str]]:
    """Return the claims as a table of text, headings first."""
    rows = [["claim", "mean", "nearest to the bound", "bound", ""]]
    for check in result.checks:
        bound = f"{'above' if check.above else 'below'} {check.bound:g}"
        numbers = [f"{check.value:.3g}", f"{check.worst:.3g}"]
        rows.append([check.claim, *numbers, bound, "holds" if check.holds else "FAILS"])
    return rows


def markdown(result: MultiIndexResult) -> str:
    """Return what was measured and claimed, as a page."""
    settings, summary = result.settings, result.summary()
    sizes = (
        f"d = {settings.dimension}, L = {settings.width}, {settings.seeds} tasks of root seed "
        f"{result.seed}. Errors are shares of the variance, mean and deviation over tasks."
    )
    parts = [f"# Multi-index tasks\n\n{RECONSTRUCTION}\n\n{sizes}\n\n{_table(check_table(result))}"]
    for part, heading in _X.items():
        rows = [["trained on", "r", heading, _VALUE[part]]]
        for (own, series, rank, x), (mean, std) in summary.items():
            if own == part:
                rows.append([series, str(rank), f"{x:,}", f"{mean:.3f} \u00b1 {std:.3f}"])
        parts.append(f"## {part}\n\n{_table(rows)}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
