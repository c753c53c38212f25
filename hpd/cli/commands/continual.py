"""The command `hpd continual`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.running import interruptible, option_if, runs_a_config, usual_folder


@click.command()
@runs_a_config
def continual(
    config: str, overrides: tuple[str, ...], out: Path | None, seed: int | None, resume: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    """Learn the classes of CONFIG a few at a time, with buffers of equal floats.

    Each buffer keeps something of the classes of each step: random images, chosen ones, or what
    any source distils. After each step students are trained on it from fresh weights, and tested
    on all classes seen so far.

    \b
    Example:
      hpd continual digits-continual --out runs/continual
      hpd continual digits-continual orders=2 buffers.pixel.source.steps=50 --out runs/quick
      hpd continual runs/continual --resume
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say, text_table
    from hpd.courses.settings import load_continual
    from hpd.courses.summary import CAPTION, table_of

    settings = load_continual(config, overrides, seed)
    if dry_run:
        from hpd.api.continual import check_course

        # what was asked for is shown even where it would not run
        click.echo(settings.to_yaml(), nl=False)
        click.echo(f"hpd: it would run: {check_course(settings)}", err=True)
        return
    console, folder = Console(), out or usual_folder(config, settings.seed)
    command = [config, *overrides, *option_if("--seed", seed), "--out", str(folder), "--resume"]
    with interruptible("continual", command), ProgressBar(console, "learning") as bar:
        result = api.continual(
            settings, out=folder, resume=resume, report=bar.on_student,
            on_estimate=lambda line: say(console, line),
        )  # fmt: skip
    heading, *rows = table_of(result.lines, settings.classes_per_step)
    table = text_table(heading, rows, left=1, caption=CAPTION)
    table.columns[0].no_wrap = True
    console.print(table)
    line = f"continual.md, .json and .png, and every buffer: {folder}"
    say(console, line)
