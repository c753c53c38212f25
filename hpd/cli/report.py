"""The command `hpd report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help="Name or folder of the real data.  [those of the run]")
@click.option(
    "--nearest/--no-nearest",
    default=True,
    help="Show the nearest real image beside each.  [nearest]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file.  [RUN/report.html]")
def report(run: Path, data: str | None, nearest: bool, out: Path | None) -> None:
    """Write the report of RUN: one HTML file to open in a browser.

    It holds the images by class, curves, accuracies, cost, provenance and configuration. With the
    nearest real images it holds training data: leave them out with --no-nearest before you pass it
    on.

    \b
    Example:
      hpd report runs/digits-0
      hpd report runs/photos-0 --no-nearest --out photos.html
    """
    from hpd import api
    from hpd.errors import ConfigError

    if data is not None and not nearest:
        raise ConfigError("--data and --no-nearest exclude each other")
    path = api.report(run, (data or "auto") if nearest else None, out=out)
    click.echo(f"report: {path}")
