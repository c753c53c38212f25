"""The command `hpd pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.paths import PATH


@click.command()
@click.argument("repository", metavar="REPO")
@click.option("--out", type=PATH, help="A new folder.  [the name of the repository]")
@click.option(
    "--kind", type=click.Choice(["run", "generator"]),
    help="What is wanted.  [the run, or the generator where there is no run]",
)  # fmt: skip
def pull(repository: str, out: Path | None, kind: Any) -> None:
    """Fetch a run, or a generator, from the Hugging Face hub, and check every file of it.

    REPO is org/name, or org/name@revision. A pull that was interrupted goes on when it is given
    again; the folder is there when all of it is whole, and not before.

    \b
    Example:
      hpd pull me/digits-distilled --out runs/theirs
      hpd pull me/digits-distilled@v1 --out runs/theirs-v1
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar

    with ProgressBar(Console(), None):
        pulled = api.pull(repository, out, kind=kind)
    click.echo(f"{pulled.kind} pulled, every file is whole: {pulled.folder}")
    click.echo(f"commit {pulled.commit}")
