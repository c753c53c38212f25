"""The command `hpd compare`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="A new folder for Markdown, JSON and a picture."
)
def compare(runs: tuple[Path, ...], out: Path | None) -> None:
    """Show runs that were evaluated in one table; those that differ by their seed are one line.

    \b
    Example:
      hpd compare runs/digits-0 runs/digits-1 runs/digits-2 runs/digits-glad-0
      hpd compare runs/* --out comparison
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.tables import text_table
    from hpd.evaluation import summary

    lines = api.compare(runs, out=out)
    heading, *rows = summary.table_of(lines)
    console = Console()
    console.print(text_table(heading, rows, left=3, caption=summary.CAPTION))
    if out is not None:
        console.print(f"comparison.md, .json and .png: {out}", highlight=False, soft_wrap=True)
