"""The command `hpd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.running import interruptible


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--card", is_flag=True,
    help="Also corruptions, an attack, another resolution and membership. [card={}]",
)  # fmt: skip
def evaluate(run: Path, overrides: tuple[str, ...], card: bool) -> None:
    """Train fresh students on the distilled set of RUN and on its baselines.

    KEY=VALUE sets options of the evaluation for this once.

    \b
    Example:
      hpd evaluate runs/digits-0 seeds=10 training.epochs=100
      hpd evaluate runs/digits-0 --card card.images=500
    """
    # first of all, so that options of the card are laid over its defaults
    overrides = ("card={}", *overrides) if card else overrides
    with interruptible("evaluate", [str(run), *overrides]):
        evaluate_and_show(run, overrides)


def evaluate_and_show(run: Any, overrides: tuple[str, ...]) -> None:
    """Evaluate a run or the run in a folder, show the table, and write the report."""
    from rich.console import Console

    from hpd import api
    from hpd.cli.card_table import card_table
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import evaluation_table, storage_table

    console = Console()
    with ProgressBar(console, "evaluating") as bar:
        evaluation = api.evaluate(run, *overrides, report=bar.on_student)
    console.print(evaluation_table(evaluation))
    console.print(storage_table(evaluation))
    if "card" in evaluation.about:
        console.print(card_table(evaluation.about["card"]))
    path = api.report(run)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
