"""The command `hpd prune`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option(
    "--budget", type=click.IntRange(min=1), help="Floats. [what the run was to have at most]"
)
@click.option("--out", type=PATH, help="A new folder. [RUN-pruned]")
def prune(run: Path, options: tuple[str, ...], budget: int | None, out: Path | None) -> None:
    """Drop images of RUN until it fits a budget, the hardest and the easiest, as a new run.

    For runs of source hmn, which may be distilled above their budget (source.overbudget).
    KEY=VALUE sets options: betas, student, training, students, held_out.

    \b
    Example:
      hpd distill digits-hmn source.overbudget=0.1 --out runs/large
      hpd prune runs/large --out runs/pruned
    """
    from rich.console import Console

    from hpd import api
    from hpd.artifacts import RunFolder
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import account_table, pruning_table, say

    console = Console()
    folder = out or run.parent / f"{run.name}-pruned"
    with ProgressBar(console, "pruning") as bar:
        pruned = api.prune(run, *options, out=folder, budget=budget, report=bar.on_student)
    manifest = RunFolder(folder).read_manifest()
    console.print(pruning_table(manifest["pruning"]))
    console.print(account_table(manifest["account"]))
    line = f"{len(pruned.distilled)} images in {pruned.distilled.stored_floats:,} floats"
    say(console, f"{line}: {folder}")
