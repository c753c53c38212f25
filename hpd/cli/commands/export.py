"""The command `hpd export`."""

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
    "--format",
    "format_name",
    required=True,
    help="imagefolder, npz, safetensors, huggingface, webdataset or ddranking.",
)
@click.option("--out", type=PATH, required=True, help="A new folder.")
def export(run: Path, options: tuple[str, ...], format_name: str, out: Path) -> None:
    """Write the distilled set of RUN in a format that anyone can train on.

    KEY=VALUE sets options of the format: constants of ddranking; shard_images and shuffle_seed of
    webdataset.

    \b
    Example:
      hpd export runs/digits-0 --format imagefolder --out digits-distilled
      hpd export runs/digits-0 --format webdataset shard_images=500 --out digits-shards
    """
    from hpd import api
    from hpd.artifacts import DistilledSet, Provenance
    from hpd.given import parse_options

    distilled = DistilledSet.load(run)
    provenance = Provenance.read(run)
    api.export(distilled, format_name, out, provenance=provenance, options=parse_options(options))
    click.echo(f"{len(distilled)} images as {format_name}: {out}")
