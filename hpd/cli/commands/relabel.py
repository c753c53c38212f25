"""The command `hpd relabel`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@takes_own_code
@click.option("--teacher", type=PATH, required=True, help="Folder of hpd squeeze.")
@click.option(
    "--bits",
    type=click.Choice(["2", "4", "8", "16", "32"]),
    default="32",
    show_default=True,
    help="Of each probability.",
)
def relabel(run: Path, teacher: Path, bits: str) -> None:
    """Store a teacher's soft labels in the distilled set of RUN.

    They count as floats of the set. `hpd evaluate RUN labels=stored` trains students on them.

    \b
    Example:
      hpd relabel runs/recovered --teacher runs/teacher
      hpd evaluate runs/recovered protocol=dwa labels=stored teacher=runs/teacher
    """
    from rich.console import Console

    from hpd import api
    from hpd.artifacts import RunFolder
    from hpd.cli.progress import ProgressBar

    with ProgressBar(Console(), None):
        distilled = api.relabel(run, teacher, bits=int(bits)).distilled
    about = RunFolder(run).read_manifest()["soft_labels"]
    click.echo(
        f"{len(distilled)} images relabelled, {about['floats']:,} floats more; "
        f"the teacher agrees with {about['agreement']:.1%} of the labels: {run}"
    )
