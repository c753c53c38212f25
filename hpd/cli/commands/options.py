"""The command `hpd options`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpd.cli.own_code import takes_own_code

if TYPE_CHECKING:
    from hpd.option_rows import Place


@click.command()
@click.argument("name", default="")
@takes_own_code
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def options(name: str, as_json: bool) -> None:
    """Show what can be set: all groups of options, or those that a dotted NAME leads to.

    \b
    Example:
      hpd options
      hpd options objective
      hpd options objective.gradient
      hpd options source.gan.generator_classes
      hpd options data.folder --json
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from hpd.cli.tables import fits, text_table
    from hpd.option_rows import find_options

    roots = _roots()
    if not name:
        _show_roots(roots, as_json=as_json)
        return
    rows = find_options(name, {first: place for first, (_, place) in roots.items()}).rows
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    kinds = all(row.type == "kind" for row in rows)
    cells = [
        [row.name, row.default or "", row.meaning]
        if kinds
        else [row.name, row.type, "required" if row.default is None else row.default, row.meaning]
        for row in rows
    ]
    heading = ["kind", "", "what it is"] if kinds else ["option", "takes", "default", "meaning"]
    table = text_table(heading, cells, left=len(heading), title=name)
    table.columns[0].no_wrap = True
    table.show_lines = not kinds
    console = Console()
    if not kinds and not fits(console, table):
        # where lines break, names of kinds stay whole, and meanings have the most words
        table.expand = True
        for column, share in zip(table.columns[1:], (20, 12, 24), strict=True):
            column.ratio = share
    console.print(table)
    if kinds:
        click.echo(f"hpd options {name}.{rows[0].name} shows the options of one.")


def _roots() -> dict[str, tuple[str, Place]]:
    """Return what first names are of, and where they lead: groups of a run, and other commands."""
    from hpd.audits import AuditSettings
    from hpd.config import RunSettings
    from hpd.courses.settings import ContinualSettings
    from hpd.evaluation.generators import ScoreSettings
    from hpd.evaluation.pruning import PruningSettings
    from hpd.generator_runs.settings import GeneratorRunSettings
    from hpd.option_rows import Place, places_of
    from hpd.registry import Settings
    from hpd.sources.sampling import SamplingSettings
    from hpd.students.experts.record import ExpertSettings
    from hpd.students.teachers import SqueezeSettings

    others: dict[str, type[Settings]] = {
        "audit": AuditSettings, "continual": ContinualSettings, "experts": ExpertSettings,
        "prune": PruningSettings, "sample": SamplingSettings, "generator score": ScoreSettings,
        "squeeze": SqueezeSettings, "generator train": GeneratorRunSettings,
    }  # fmt: skip
    roots = {name: ("distill", place) for name, place in places_of(RunSettings).items()}
    # named by the last word of their command
    return roots | {name.split()[-1]: (name, Place(cls)) for name, cls in others.items()}


def _show_roots(roots: dict[str, tuple[str, Place]], *, as_json: bool) -> None:
    import json

    from rich.console import Console

    from hpd.cli.tables import text_table

    found = [(name, f"hpd {command}", _holds(at)) for name, (command, at) in roots.items()]
    if as_json:
        keys = ("name", "command", "holds")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    Console().print(text_table(["name", "command", "kinds or options"], found, left=3))
    click.echo("hpd options NAME shows them; names go on, as in objective.gradient.student.")


def _holds(place: Place) -> str:
    return ", ".join(row.name for row in place.rows) if place.only is None else place.rows[0].type
