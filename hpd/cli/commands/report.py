"""The command `hpd report`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("run", type=PATH)
@takes_own_code
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="Name, folder or file of the real data.  [those of the run]")
@click.option(
    "--nearest/--no-nearest",
    default=True,
    help="Show the nearest real image beside each.  [nearest]",
)
@click.option("--out", type=PATH, help="The file.  [RUN/report.html]")
def report(
    run: Path, overrides: tuple[str, ...], data: str | None, nearest: bool, out: Path | None
) -> None:
    """Write the report of RUN: one HTML file to open in a browser.

    It holds the images by class, curves, accuracies, cost, provenance and configuration. With the
    nearest real images it holds training data: leave them out with --no-nearest before you pass it
    on. KEY=VALUE sets options of the data: data.root=FOLDER where they lie elsewhere now.

    \b
    Example:
      hpd report runs/digits-0
      hpd report runs/photos-0 --no-nearest --out photos.html
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.errors import ConfigError

    if (data is not None or overrides) and not nearest:
        raise ConfigError("data and --no-nearest exclude each other")
    with ProgressBar(Console(), None):
        path = api.report(run, (data or "auto") if nearest else None, *overrides, out=out)
    click.echo(f"report: {path}")
