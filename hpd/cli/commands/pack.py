"""The command `hpd pack`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@takes_own_code
@click.option("--out", type=PATH, help="A new file.  [RUN.hpd]")
@click.option("--latents", is_flag=True, help="Also what `hpd sample` and `hpd prune` start from.")
def pack(run: Path, out: Path | None, latents: bool) -> None:
    """Write RUN to one file: all that it takes to repeat and to judge it, with checksums.

    Any zip program opens the file, and wherever a run is read it stands for the folder. Checkpoints
    and the report, which may hold real images, stay.

    \b
    Example:
      hpd pack runs/digits-0
      hpd evaluate runs/digits-0.hpd seeds=10
    """
    from hpd import api

    packed = api.pack(run, out, latents=latents)
    click.echo(f"packed: {packed.path}, {packed.size_bytes:,} bytes")
    click.echo(f"SHA-256 {packed.sha256}")
