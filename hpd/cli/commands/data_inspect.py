"""The command `hpd data inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code


@click.command()
@click.argument("where")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only N of each class.")
@click.option(
    "--grid",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw some pictures of each class.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the same facts as JSON.")
def inspect(
    where: str, options: tuple[str, ...], sample: int | None, grid: Path | None, as_json: bool
) -> None:
    """Say what a data set is made of: classes, sizes, broken and equal pictures, and its cost.

    WHERE is a folder, a file or a name, as in `data` of a configuration. KEY=VALUE sets options of
    the data set: resolution, channels, classes, ... Every picture is read, and nothing is kept.

    \b
    Example:
      hpd data inspect photos
      hpd data inspect photos resolution=64 --sample 50 --grid photos.png
    """
    import json

    from rich.console import Console

    from hpd import api
    from hpd.cli.inspection_tables import show
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say

    console = Console(stderr=as_json)
    with ProgressBar(console, "looking at pictures") as bar:
        about = api.inspect_dataset(
            where,
            *options,
            sample=sample,
            grid=grid,
            report=lambda done, total: bar.on_student("", done, total),
        )
    if as_json:
        click.echo(json.dumps(about.as_json(), indent=1, ensure_ascii=False))
        return
    show(about, console)
    if grid is not None:
        say(console, f"pictures: {grid}")
