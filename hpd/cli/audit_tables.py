"""The tables of `hpd audit`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from hpd.audits.finding import Found
from hpd.cli.tables import say, text_table


def findings_table(found: Found) -> Table:
    """Return what was found out, question by question."""
    rows = [[one.question, one.answer, one.by, one.says] for one in found.findings]
    heading = ["question", "answer", "told by", "because"]
    table = text_table(heading, rows, left=len(heading), title="what the set means")
    table.show_lines = True
    return table


def show_warnings(console: Console, found: Found) -> None:
    """Print what a user should know, and what does not go together."""
    for line in found.notes:
        say(console, f"note: {line}")
    for line in found.warnings:
        say(console, f"warning: {line}")
