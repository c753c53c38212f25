"""The command `hpd relabel`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--teacher", type=click.Path(path_type=Path), required=True, help="Folder of hpd squeeze."
)
def relabel(run: Path, teacher: Path) -> None:
    """Store a teacher's soft labels in the distilled set of RUN.

    They count as floats of the set. `hpd evaluate RUN labels=stored` trains students on them.

    \b
    Example:
      hpd relabel runs/recovered --teacher runs/teacher
      hpd evaluate runs/recovered protocol=dwa labels=stored teacher=runs/teacher
    """
    from hpd import api
    from hpd.artifacts import RunFolder

    distilled = api.relabel(run, teacher).distilled
    about = RunFolder(run).read_manifest()["soft_labels"]
    click.echo(
        f"{len(distilled)} images relabelled, {about['floats']:,} floats more; "
        f"the teacher agrees with {about['agreement']:.1%} of the labels: {run}"
    )
