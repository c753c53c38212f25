"""Tables that the command line shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hpd.artifacts.report.tables import row_label
from hpd.evaluation import Evaluation
from hpd.evaluation.summary import accuracy_text


def text_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, **about: str
) -> Table:
    """Return a table of cells that are text already.

    Args:
        heading: of each column.
        rows: cells.
        left: number of columns aligned to the left; those after them are numbers.
        **about: `title` or `caption`.
    """
    table = Table(**about)  # type: ignore[arg-type]
    for i, cell in enumerate(heading):
        table.add_column(cell, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the table of an evaluation."""
    result = Table(title="accuracy on real test images, mean and standard deviation over students")
    for heading in ("trained on", "student", "images a class", "floats", "accuracy %", "students"):
        align = "left" if heading in ("trained on", "student") else "right"
        result.add_column(heading, justify=align)  # type: ignore[arg-type]
    for row in evaluation.rows:
        result.add_row(
            row_label(row.name),
            row.network,
            f"{row.images_per_class:g}",
            f"{row.stored_floats:,}",
            accuracy_text(row.accuracy_mean, row.accuracy_std, len(row.seeds)),
            str(len(row.seeds)),
        )
    return result


def account_table(account: Mapping[str, Any]) -> Table:
    """Return the table of an account, as the manifest of a run holds it."""
    table = Table(title=f"stored floats, {account['images_per_class']} images a class")
    table.add_column("item")
    for heading in ("count", "floats each", "floats"):
        table.add_column(heading, justify="right")
    for line in account["lines"]:
        numbers = (line["count"], line["floats_each"], line["floats"])
        table.add_row(line["item"], *(f"{number:,}" for number in numbers))
    table.add_section()
    over = account["left_over"] < 0
    table.add_row("total", "", "", f"{account['total']:,}")
    table.add_row("budget", "", "", f"{account['budget']:,}")
    table.add_row("above it" if over else "left over", "", "", f"{abs(account['left_over']):,}")
    return table


def pruning_table(pruning: Mapping[str, Any]) -> Table:
    """Return the table of a pruning, as the manifest of a run holds it."""
    table = Table(title=f"dropped {pruning['dropped']} images, kept {pruning['kept']}")
    for heading in ("beta", "hardest a class", "easiest a class", "held-out accuracy %", ""):
        table.add_column(heading, justify="right")
    for trial in pruning["trials"]:
        accuracy = "" if trial["accuracy"] is None else f"{trial['accuracy']:.1f}"
        chosen = "kept" if trial["beta"] == pruning["beta"] else ""
        numbers = (str(trial["hardest"]), str(trial["easiest"]), accuracy)
        table.add_row(f"{trial['beta']:g}", *numbers, chosen)
    return table
