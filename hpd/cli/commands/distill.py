"""The command `hpd distill`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.cli.commands.evaluate import evaluate_and_show
from hpd.cli.running import interruptible, one_speaks, option_if, runs_a_config, usual_folder

if TYPE_CHECKING:
    from rich.console import Console

    from hpd.api.runs import Run


@click.command()
@runs_a_config
@click.option(
    "--tracker", "trackers", multiple=True, type=click.Choice(["tensorboard", "wandb"]),
    help="Send metrics there, too; may be given twice. [tracking.to]",
)  # fmt: skip
def distill(
    config: str, overrides: tuple[str, ...], out: Path | None, seed: int | None, resume: bool,
    trackers: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Distil by CONFIG, then evaluate the result.

    CONFIG is a bundled name, a YAML file, or the folder of a run to go on with.

    \b
    Example:
      hpd distill digits source.steps=20 --seed 1 --out runs/quick
      hpd distill runs/quick --resume
      accelerate launch -m hpd distill digits --out runs/shared-out
    """
    from hpd.config import load_config

    if trackers:
        overrides = (*overrides, f"tracking.to=[{', '.join(trackers)}]")

    settings = load_config(config, overrides, seed)
    folder = out or usual_folder(config, settings.seed)
    if dry_run:
        from hpd.api.distilling import check_run

        # what was asked for is shown even where it would not run
        click.echo(settings.to_yaml(), nl=False)
        click.echo(f"hpd: it would run: {check_run(settings, folder, resume=resume)}", err=True)
        return
    command = [config, *overrides, *option_if("--seed", seed), "--out", str(folder), "--resume"]
    # one holder from the first step to the end of the evaluation
    with interruptible("distill", command), ExitStack() as holder:
        _distill_and_evaluate(settings, folder, resume, holder)


def _distill_and_evaluate(settings: Any, folder: Path, resume: bool, holder: ExitStack) -> None:
    from rich.console import Console

    from hpd import api
    from hpd.artifacts import RunFolder
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import account_table, say
    from hpd.machine.device import Processes

    processes = Processes.started(cpu=settings.device == "cpu")
    console = Console(quiet=not processes.is_first)
    with one_speaks(processes):
        with ProgressBar(console, "distilling") as bar:
            run = api.distill(
                settings, out=folder, resume=resume, processes=processes, observers=[bar],
                on_setup=bar.expect, on_estimate=bar.on_estimate,
                holder=holder,
            )  # fmt: skip
        # the first one has seen what there was to do
        worked = processes.any(bar.worked)
        if not worked and processes.first(lambda: _is_evaluated(folder, settings)):
            processes.first(lambda: _show_that_nothing_is_left(run, folder, console))
            processes.end()
            return
        manifest = RunFolder(folder).read_manifest() if processes.is_first else {}
        if worked:
            say(console, _spent(run, manifest.get("best_stage")))
        if "account" in manifest:
            console.print(account_table(manifest["account"]))
        # a run that was finished before is judged as is asked for now
        config = run.config.model_copy(update={"evaluation": settings.evaluation})
        evaluate_and_show(replace(run, config=config), (), processes)
    processes.end()
    say(console, f"images and all else: {folder}")


def _show_that_nothing_is_left(run: Run, folder: Path, console: Console) -> None:
    from hpd import api
    from hpd.artifacts.report.page import REPORT
    from hpd.cli.tables import say

    if not (folder / REPORT).exists():
        api.report(run)
    say(console, f"nothing left to do: {folder}")


def _is_evaluated(folder: Path, settings: Any) -> bool:
    """Return whether the run in a folder was evaluated in the way that is asked for now."""
    from hpd.artifacts import RunFolder

    asked = settings.evaluation.model_dump(mode="json")
    records = RunFolder(folder).read_evaluations() if RunFolder(folder).evaluated else []
    return any(record.get("settings", asked) == asked for record in records)


def _spent(run: Run, best: Mapping[str, Any] | None) -> str:
    """Return one line about what a run took, over all its parts, and which state it gave."""
    parts = int(run.cost["parts"])
    over = f" in {parts} parts" if parts > 1 else ""
    from hpd.showing import counted

    kept = ""
    if best is not None:
        kept = f"; kept: stage {best['name']} after {counted(best['step'], 'step')}"
    line = f"distilled {len(run.distilled)} images in {run.cost['seconds']:.0f} s{over}"
    return f"{line}, {run.cost['selection_share']:.1%} of it for the selection{kept}"
