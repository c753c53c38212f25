"""The command `hpd distill`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.cli.evaluate import evaluate_and_show
from hpd.cli.running import EXIT_BAD_INPUT, folder_of, interruptible, option_if, runs_a_config
from hpd.errors import HpdError

if TYPE_CHECKING:
    from hpd.device import Processes


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
    """Distil by CONFIG (a bundled name or a YAML file), then evaluate the result.

    \b
    Example:
      hpd distill digits source.steps=20 --seed 1 --out runs/quick
      hpd distill digits source.steps=20 --seed 1 --out runs/quick --resume
      accelerate launch -m hpd distill digits --out runs/shared-out
    """
    from hpd.config import load_config

    if trackers:
        overrides = (*overrides, f"tracking.to=[{', '.join(trackers)}]")

    settings = load_config(config, overrides, seed)
    if dry_run:
        click.echo(settings.to_yaml(), nl=False)
        return
    folder = out or folder_of(config, settings.seed)
    command = [config, *overrides, *option_if("--seed", seed), "--out", str(folder), "--resume"]
    with interruptible("distill", command):
        _distill_and_evaluate(settings, folder, resume)


def _distill_and_evaluate(settings: Any, folder: Path, resume: bool) -> None:
    from rich.console import Console

    from hpd import api
    from hpd.artifacts import RunFolder
    from hpd.artifacts.report.page import REPORT
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import account_table
    from hpd.device import Processes

    processes = Processes.started(cpu=settings.device == "cpu")
    console, started = Console(quiet=not processes.is_first), time.perf_counter()
    with _one_speaks(processes), ProgressBar(console, "distilling") as bar:
        run = api.distill(
            settings, out=folder, resume=resume, processes=processes, observers=[bar],
            on_setup=bar.expect, on_estimate=bar.on_estimate,
        )  # fmt: skip
    processes.end()
    if not processes.is_first:
        return
    if run.cost:
        line = f"distilled {len(run.distilled)} images in {time.perf_counter() - started:.0f} s"
        share = f"{run.cost['selection_share']:.1%} of it for the selection"
        console.print(f"{line}, {share}", highlight=False)
    elif RunFolder(folder).evaluated:
        if not (folder / REPORT).exists():
            api.report(run)
        console.print(f"nothing left to do: {folder}", highlight=False, soft_wrap=True)
        return
    account = RunFolder(folder).read_manifest().get("account")
    if account:
        console.print(account_table(account))
    evaluate_and_show(run, ())
    console.print(f"images and all else: {folder}", highlight=False, soft_wrap=True)


@contextmanager
def _one_speaks(processes: Processes) -> Iterator[None]:
    """Let the first of several processes say what all of them know."""
    if not processes.is_first:
        for package in ("hpd", "generators"):
            logging.getLogger(package).setLevel(logging.ERROR)
    try:
        yield
    except HpdError:
        if processes.told and not processes.is_first:
            sys.exit(EXIT_BAD_INPUT)
        raise
