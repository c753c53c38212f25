"""The commands `hpd theory`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpd.cli.paths import PATH

_EXIT_FAILED = 1


@click.group()
def theory() -> None:
    """Experiments on tasks whose answer is known.

    \b
    Example:
      hpd theory multi-index --out multi-index
    """


@theory.command("multi-index")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=PATH, required=True, help="A new folder.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def multi_index(options: tuple[str, ...], out: Path, seed: int) -> None:
    """Distil tasks in 50 dimensions of which 1 to 4 matter: a reconstruction, with three pictures.

    A few points teach the first layer of a network, and labels of inputs that a seed gives the
    second. About a minute on one CPU core. The claims are checked; one that fails is exit code 1.
    KEY=VALUE sets sizes: examples, width, seeds, ...

    \b
    Example:
      hpd theory multi-index --out multi-index
      hpd theory multi-index seeds=5 --seed 1 --out more
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say, text_table
    from hpd.theory import RECONSTRUCTION
    from hpd.theory.tables import check_table

    console = Console()
    with ProgressBar(console, "measuring") as bar:
        result = api.multi_index(*options, out=out, seed=seed, report=bar.on_student)
    heading, *rows = check_table(result)
    title = f"multi-index tasks, mean over {result.settings.seeds} of them"
    console.print(text_table(heading, rows, left=len(heading), title=title))
    console.print(RECONSTRUCTION, highlight=False)
    say(console, f"tables and pictures: {out}")
    if not result.holds:
        sys.exit(_EXIT_FAILED)
