"""Tables that the command line shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpd.artifacts.report.tables import SCORE_LEGEND, SCORES, legend, row_label, whole_set_line
from hpd.evaluation import Evaluation, Row
from hpd.evaluation.summary import accuracy_text
from hpd.showing import count_text
from hpd.storage import Amount, Storage


def say(console: Console, line: str) -> None:
    """Print a line as it is: names and paths in it are no markup, and are not broken."""
    console.print(Text(line), soft_wrap=True)


def fits(console: Console, table: Table) -> bool:
    """Return whether a table is no wider than a terminal, or would break within its cells."""
    unbound = console.options.update(max_width=10_000)
    return console.measure(table, options=unbound).maximum <= console.width


def text_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, **about: str | None
) -> Table:
    """Return a table of cells that are text already.

    Args:
        heading: of each column.
        rows: cells.
        left: number of columns aligned to the left; those after them are numbers.
        **about: `title` or `caption`.
    """
    table = Table(**about, caption_justify="left")  # type: ignore[arg-type]
    for i, cell in enumerate(heading):
        table.add_column(cell, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        # a class named [red] is no colour, and one named :dog: no picture
        table.add_row(*map(Text, row))
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the table of accuracies and scores of an evaluation."""
    rows, several = evaluation.rows, len({row.network for row in evaluation.rows}) > 1
    scores = {k: v for k, v in SCORES.items() if any(getattr(r, k) is not None for r in rows)}
    heading = ["trained on", *(["student"] if several else []), "a class", "accuracy %"]
    cells = [
        [
            row_label(row.name),
            *([row.network] if several else []),
            count_text(row.images_per_class),
            accuracy_text(row.accuracy_mean, row.accuracy_std, len(row.seeds)),
            *(_score(getattr(row, key)) for key in scores),
        ]
        for row in rows
    ]
    count = len(rows[0].seeds) if rows else 0
    over = f"mean and deviation over {count} students" if count != 1 else "of a single student"
    of = "" if several or not rows else f", {rows[0].network}"
    whole = whole_set_line(evaluation.about.get("whole_sets", []))
    notes = [legend(row.name for row in rows), SCORE_LEGEND if scores else "", whole]
    return text_table(
        [*heading, *scores.values()], cells, left=1 + several,
        title=f"accuracy on real test images, {over}{of}",
        caption="\n".join(note for note in notes if note) or None,
    )  # fmt: skip


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def storage_table(evaluation: Evaluation) -> Table:
    """Return the table of what each set stores: three numbers, each in floats and in bits.

    Labels and generator are left out where no set has any.
    """
    rows = list({row.name: row for row in evaluation.rows}.values())
    parts = [
        part.name
        for part in fields(Storage)
        if part.name == "images" or any(_amount(row, part.name).floats for row in rows)
    ]
    heading = ["set", *(text for part in parts for text in (f"{part}, floats", "bits"))]
    cells = [
        [
            row_label(row.name),
            *(f"{n:,}" for part in parts for n in astuple(_amount(row, part))),
        ]
        for row in rows
    ]
    return text_table(heading, cells, left=1, title="what each set stores")


def _amount(row: Row, part: str) -> Amount:
    amount: Amount = getattr(row.storage, part)
    return amount


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
