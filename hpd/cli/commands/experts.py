"""The command `hpd experts`."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import interruptible, one_speaks, option_if

if TYPE_CHECKING:
    from hpd.students.experts.trajectories import ExpertFolder


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--out", type=PATH, help="Their folder. [objective.experts]")
@click.option(
    "--count", type=click.IntRange(min=1), help="How many. [objective.expert_training.count]"
)
@click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness.")
def experts(
    config: str, overrides: tuple[str, ...], out: Path | None, count: int | None, seed: int | None
) -> None:
    """Train the experts that the objective of CONFIG matches students to.

    Experts that are there are kept, and one that was interrupted goes on where it stopped. The same
    command may run several times at once, on one machine or on several: each takes experts that
    nobody is at.

    \b
    Example:
      hpd experts digits objective=trajectory --count 3
      accelerate launch -m hpd experts digits objective=trajectory --count 8
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say
    from hpd.config import load_config
    from hpd.machine.device import Processes

    settings = load_config(config, overrides, seed)
    processes = Processes.started(cpu=settings.device == "cpu")
    console = Console(quiet=not processes.is_first)
    started = time.perf_counter()
    options = [*option_if("--out", out), *option_if("--count", count), *option_if("--seed", seed)]
    with (
        interruptible("experts", [config, *overrides, *options]),
        one_speaks(processes),
        ProgressBar(console, "training experts") as bar,
        processes.together(),
    ):
        folder = api.train_experts(
            settings, out=out, count=count, report=bar.on_epoch, on_setup=bar.expect_experts
        )
    seconds = time.perf_counter() - started
    processes.end()
    line = _describe(folder)
    line = f"{line}, {seconds:.0f} s" if bar.done else f"nothing left to train: {line}"
    say(console, f"{line}: {folder.path}")


def _describe(folder: ExpertFolder) -> str:
    """Return one line about experts: how many, means over all of them, and what they take up."""
    results = [folder.result(expert) for expert in range(len(folder))]
    first, last = (fmean(result.losses[i] for result in results) for i in (0, -1))
    before = fmean(result.accuracy_before for result in results)
    after = fmean(result.accuracy_after for result in results)
    return (
        f"{len(folder)} experts of {folder.epochs} epochs: loss {first:.4g} -> {last:.4g}, "
        f"training accuracy {before:.1%} -> {after:.1%}, {folder.size_bytes / 1e6:.1f} MB"
    )
