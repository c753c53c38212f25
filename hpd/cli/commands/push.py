"""The command `hpd push`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@click.argument("repository", metavar="REPO")
@takes_own_code
@click.option("--latents", is_flag=True, help="Also what `hpd sample` and `hpd prune` start from.")
@click.option(
    "--private/--public", default=None, help="Of a repository that is made.  [as its owner has it]"
)
def push(run: Path, repository: str, latents: bool, private: bool | None) -> None:
    """Put RUN, or a generator, into a repository of the Hugging Face hub.

    RUN is a folder, a packed file, or a generator: its folder or the name of a bundled one. REPO is
    org/name. The token is that of huggingface_hub: HF_TOKEN, or what `hf auth login` keeps. A push
    that was interrupted goes on when it is given again.

    \b
    Example:
      hpd push runs/digits-0 me/digits-distilled
      hpd push my-generator me/my-generator --private
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar

    with ProgressBar(Console(), None):
        pushed = api.push(run, repository, latents=latents, private=private)
    click.echo(f"{pushed.kind} pushed: {pushed.files} files to {pushed.repository}")
    click.echo(f"commit {pushed.commit}")
