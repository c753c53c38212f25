"""The command `hpd compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@takes_own_code
@click.option(
    "--sort", type=click.Choice(["score", "bits", "given"]), default="score", show_default=True,
    help="Best first, fewest bits first, or as given.",
)  # fmt: skip
@click.option("--picture", type=PATH, help="Accuracy against bits: a new .png or .svg.")
@click.option("--markdown", type=PATH, help="A leaderboard with what it takes to verify each row.")
@click.option("--out", type=PATH, help="A new folder for Markdown, JSON, CSV and a picture.")
@click.option("--name", help="Of the evaluation of each run.  [the newest]")
def compare(
    runs: tuple[Path, ...],
    sort: Any,
    picture: Path | None,
    markdown: Path | None,
    out: Path | None,
    name: str | None,
) -> None:
    """Show runs that were evaluated side by side; those that differ by their seed are one line.

    RUN is a folder, a packed file, hub:org/name or what `hpd audit` wrote. Those that were judged
    alike stand in one table, and what keeps tables apart below them.

    \b
    Example:
      hpd compare runs/digits-0 runs/digits-1 runs/digits-2 runs/digits-glad-0
      hpd compare runs/* --out comparison
      hpd compare *.hpd --picture frontier.svg --markdown leaderboard.md
    """
    from rich.console import Console

    from hpd import api
    from hpd.artifacts.report.tables import legend
    from hpd.cli.tables import fits, say, text_table
    from hpd.evaluation import comparison, summary

    lines = api.compare(runs, out=out, name=name, sort=sort, picture=picture, leaderboard=markdown)
    console = Console()
    for number, (how, own) in enumerate(tables := summary.tables_of(lines), start=1):
        title = f"{number}: {how}" if len(tables) > 1 else how
        heading, *rows = comparison.table_of(own)
        table = text_table(heading, rows, left=3, title=title)
        # a narrow terminal would break headings inside of words
        if not fits(console, table):
            heading, *rows = comparison.long_table_of(own)
            table = text_table(heading, rows, left=3, title=title)
        console.print(table)
    for line in summary.why_apart(lines):
        say(console, f"not comparable across tables: {line}")
    say(console, legend(line.set for line in lines))
    say(console, comparison.CAPTION)
    if out is not None:
        say(console, f"comparison.md, .json, .csv and .png, and frontier.png: {out}")
    for path in (picture, markdown):
        if path is not None:
            say(console, f"written: {path}")
