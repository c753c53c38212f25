"""The command `hpd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import interruptible, one_speaks, option_if

if TYPE_CHECKING:
    from hpd.api.runs import Run
    from hpd.machine.device import Processes


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
    Several processes share the students out.

    \b
    Example:
      hpd evaluate runs/digits-0 seeds=10 training.epochs=100
      hpd evaluate runs/digits-0 protocol=glad --name glad
      hpd evaluate runs/digits-0 --card card.images=500
      accelerate launch -m hpd evaluate runs/digits-0 seeds=10
    """
    # first of all, so that options of the card are laid over its defaults
    overrides = ("card={}", *overrides) if card else overrides
    with interruptible("evaluate", [str(run), *overrides, *option_if("--name", name)]):
        from hpd import api
        from hpd.machine.device import Processes

        found = api.load_run(run)
        processes = Processes.started(cpu=found.config.device == "cpu")
        with one_speaks(processes):
            evaluate_and_show(found, overrides, processes, name)
        processes.end()


def evaluate_and_show(
    run: Run, overrides: tuple[str, ...], processes: Processes, name: str | None = None
) -> None:
    """Evaluate a run, show the table, and write the report; the first process does the latter.

    Args:
        run: to evaluate.
        overrides: options of the evaluation.
        processes: that share the students out.
        name: of the evaluation.
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.card_table import card_table
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import evaluation_table, say, storage_table

    console = Console(quiet=not processes.is_first)
    with ProgressBar(console, "evaluating") as bar:
        evaluation = api.evaluate(
            run, *overrides, name=name, processes=processes, report=bar.on_student,
            on_estimate=bar.on_estimate,
        )  # fmt: skip
    if not processes.is_first:
        return
    console.print(evaluation_table(evaluation))
    console.print(storage_table(evaluation))
    if "card" in evaluation.about:
        console.print(card_table(evaluation.about["card"]))
    if not evaluation.name:
        say(console, f"nothing is kept: {run} is a run to read, not to write to")
        return
    say(console, f"kept as the evaluation {evaluation.name!r}")
    say(console, f"report: {api.report(run)}")
