"""Tables of what a set stores, and of how it was pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


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
