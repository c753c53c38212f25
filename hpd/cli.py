"""The command line: a thin shell over `hpd.api`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.allocator import keep_freed_memory
from hpd.commands import folder_of, interruptible, option_if, rank
from hpd.compare_cli import compare
from hpd.continual_cli import continual
from hpd.errors import HpdError
from hpd.export_cli import export
from hpd.generator_cli import generator
from hpd.ops_cli import ops
from hpd.prune_cli import prune
from hpd.relabel_cli import relabel
from hpd.report_cli import report
from hpd.sample_cli import sample
from hpd.squeeze_cli import squeeze
from hpd.theory_cli import theory

if TYPE_CHECKING:
    from hpd.device import Processes

_EXIT_BAD_INPUT = 2


class _Commands(click.Group):
    """Turns errors that the user can mend into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        keep_freed_memory()
        try:
            return super().invoke(ctx)
        # OSError: a full disk, a folder that may not be written to
        except (HpdError, OSError) as error:
            message = " ".join(str(error).split())
            who = f"hpd (process {rank()})" if rank() else "hpd"
            click.echo(f"{who}: {type(error).__name__}: {message}", err=True)
            sys.exit(_EXIT_BAD_INPUT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpd")
def main() -> None:
    """Distil an image data set into a few synthetic images per class.

    \b
    Example:
      hpd distill digits --out runs/digits
      hpd export runs/digits --format imagefolder --out digits-distilled
    """


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run. [runs/NAME-SEED]")
@click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder, if there is one.")
@click.option(
    "--tracker", "trackers", multiple=True, type=click.Choice(["tensorboard", "wandb"]),
    help="Send metrics there, too; may be given twice. [tracking.to]",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the resolved config and stop.")
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
    from hpd.console import ProgressBar
    from hpd.device import Processes
    from hpd.tables import account_table

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
    _evaluate_and_show(run, ())
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
            sys.exit(_EXIT_BAD_INPUT)
        raise


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Their folder. [objective.experts]")
@click.option(
    "--count", type=click.IntRange(min=1), help="How many. [objective.expert_training.count]"
)
@click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness.")
def experts(
    config: str, overrides: tuple[str, ...], out: Path | None, count: int | None, seed: int | None
) -> None:
    """Train the experts that the objective of CONFIG matches students to.

    Experts that are there are kept, and one that was interrupted goes on where it stopped.

    \b
    Example:
      hpd experts digits objective=trajectory --count 3
    """
    from rich.console import Console

    from hpd import api
    from hpd.config import load_config
    from hpd.console import ProgressBar, describe_experts

    settings, console = load_config(config, overrides, seed), Console()
    started = time.perf_counter()
    options = [*option_if("--out", out), *option_if("--count", count), *option_if("--seed", seed)]
    with (
        interruptible("experts", [config, *overrides, *options]),
        ProgressBar(console, "training experts") as bar,
    ):
        folder = api.train_experts(
            settings, out=out, count=count, report=bar.on_epoch, on_setup=bar.expect_experts
        )
    seconds = time.perf_counter() - started
    line = describe_experts(folder)
    line = f"{line}, {seconds:.0f} s" if bar.done else f"nothing left to train: {line}"
    console.print(f"{line}: {folder.path}", highlight=False, soft_wrap=True)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def evaluate(run: Path, overrides: tuple[str, ...]) -> None:
    """Train fresh students on the distilled set of RUN and on its baselines.

    KEY=VALUE sets options of the evaluation for this once.

    \b
    Example:
      hpd evaluate runs/digits-0 seeds=10 training.epochs=100
    """
    with interruptible("evaluate", [str(run), *overrides]):
        _evaluate_and_show(run, overrides)


def _evaluate_and_show(run: Any, overrides: tuple[str, ...]) -> None:
    from rich.console import Console

    from hpd import api
    from hpd.console import ProgressBar, table

    console = Console()
    with ProgressBar(console, "evaluating") as bar:
        evaluation = api.evaluate(run, *overrides, report=bar.on_student)
    console.print(table(evaluation))
    path = api.report(run)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)


@main.command()
def configs() -> None:
    """List the bundled configs.

    \b
    Example:
      hpd configs
      hpd distill digits --dry-run
    """
    from hpd.config import bundled_configs, parse_yaml

    for name, path in bundled_configs().items():
        description = parse_yaml(path.read_text(), str(path)).get("description", "")
        click.echo(f"{name:<20} {description}")


main.add_command(compare)
main.add_command(continual)
main.add_command(export)
main.add_command(generator)
main.add_command(ops)
main.add_command(prune)
main.add_command(relabel)
main.add_command(report)
main.add_command(sample)
main.add_command(squeeze)
main.add_command(theory)
