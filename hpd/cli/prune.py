"""The command `hpd prune`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--budget", type=click.IntRange(min=1), help="Floats. [what the run was to have at most]"
)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder. [RUN-pruned]")
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
    from hpd.cli.tables import account_table, pruning_table

    console = Console()
    folder = out or run.parent / f"{run.name}-pruned"
    with ProgressBar(console, "pruning") as bar:
        pruned = api.prune(run, *options, out=folder, budget=budget, report=bar.on_student)
    manifest = RunFolder(folder).read_manifest()
    console.print(pruning_table(manifest["pruning"]))
    console.print(account_table(manifest["account"]))
    line = f"{len(pruned.distilled)} images in {pruned.distilled.stored_floats:,} floats"
    console.print(f"{line}: {folder}", highlight=False, soft_wrap=True)
