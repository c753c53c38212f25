"""The command `hpd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import interruptible, option_if


@click.command()
@click.argument("run", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option(
    "--card", is_flag=True,
    help="Also corruptions, an attack, another resolution and membership. [card={}]",
)  # fmt: skip
@click.option("--name", help="Of the evaluation.  [protocol, labels and students]")
def evaluate(run: Path, overrides: tuple[str, ...], card: bool, name: str | None) -> None:
    """Train fresh students on the distilled set of RUN and on its baselines.

    KEY=VALUE sets options of the evaluation for this once. Earlier evaluations stay beside it.

    \b
    Example:
      hpd evaluate runs/digits-0 seeds=10 training.epochs=100
      hpd evaluate runs/digits-0 protocol=glad --name glad
      hpd evaluate runs/digits-0 --card card.images=500
    """
    # first of all, so that options of the card are laid over its defaults
    overrides = ("card={}", *overrides) if card else overrides
    with interruptible("evaluate", [str(run), *overrides, *option_if("--name", name)]):
        evaluate_and_show(run, overrides, name)


def evaluate_and_show(run: Any, overrides: tuple[str, ...], name: str | None = None) -> None:
    """Evaluate a run or the run in a folder, show the table, and write the report."""
    from rich.console import Console

    from hpd import api
    from hpd.cli.card_table import card_table
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import evaluation_table, say, storage_table

    console = Console()
    with ProgressBar(console, "evaluating") as bar:
        evaluation = api.evaluate(run, *overrides, name=name, report=bar.on_student)
    console.print(evaluation_table(evaluation))
    console.print(storage_table(evaluation))
    if "card" in evaluation.about:
        console.print(card_table(evaluation.about["card"]))
    if not evaluation.name:
        say(console, f"nothing is kept: {run} is a run to read, not to write to")
        return
    say(console, f"kept as the evaluation {evaluation.name!r}")
    say(console, f"report: {api.report(run)}")
