"""The command `hpd verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH

if TYPE_CHECKING:
    from rich.console import Console

    from hpd.api import Verification


@click.command()
@click.argument("file", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--evaluate", is_flag=True, help="Also make its evaluation again, and compare.")
@click.option("--name", help="Of the evaluation.  [the newest]")
@click.option("--generator", type=PATH, help="The one of the run, where it lies elsewhere here.")
def verify(
    file: Path, overrides: tuple[str, ...], evaluate: bool, name: str | None, generator: Path | None
) -> None:
    """Say whether a packed run is whole, and whether its figures come out again.

    FILE is what `hpd pack` wrote, or a folder that it was unpacked to, or that `hpd pull` made.
    data.root=FOLDER says where the data are here. What is wrong is named, and the exit code is 2.

    \b
    Example:
      hpd verify runs/digits-0.hpd
      hpd verify runs/digits-0.hpd --evaluate
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar

    console = Console()
    with ProgressBar(console, "evaluating" if evaluate else None) as bar:
        found = api.verify(
            file, *overrides, evaluate=evaluate, name=name, generator=generator,
            report=bar.on_student,
        )  # fmt: skip
    _say_members(console, found)
    _say_figures(console, found)
    _refuse(found)


def _say_members(console: Console, found: Verification) -> None:
    from hpd.artifacts.packed.packing import WHOLE
    from hpd.cli.tables import say

    for member, state in found.members.items():
        if state != WHOLE:
            say(console, f"{state}: {member}")
    whole = sum(state == WHOLE for state in found.members.values())
    say(console, f"{whole} of {len(found.members)} files are whole")
    if found.sha256 is not None:
        say(console, f"SHA-256 {found.sha256}")


def _say_figures(console: Console, found: Verification) -> None:
    from hpd.artifacts.report.tables import row_label
    from hpd.cli.tables import say, text_table

    if found.figures:
        rows = [
            [
                row_label(one.set), one.network, f"{one.stated:.2f}",
                "" if one.again is None else f"{one.again:.2f}",
                "" if one.allowed is None else f"{one.allowed:.2f}", one.verdict,
            ]
            for one in found.figures
        ]  # fmt: skip
        heading = ["trained on", "student", "stated %", "again %", "may differ by", ""]
        title = f"the evaluation {found.evaluation!r}, made again"
        console.print(text_table(heading, rows, left=2, title=title))
    for what, (stated, here) in found.differs.items():
        say(console, f"other than it was: {what}: {stated} -> {here}")


def _refuse(found: Verification) -> None:
    """End with what is wrong, if anything is."""
    from hpd.artifacts.packed.packing import WHOLE
    from hpd.errors import RunError

    if wrong := [name for name, state in found.members.items() if state != WHOLE]:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        got = f"{found.members[wrong[0]]}: {wrong[0]}{more}"
        raise RunError(f"{found.name} is not whole", got=got, fix="Fetch it again.")
    if found.reproduced is False:
        got = "; ".join(found.differs) or "the same versions and options"
        apart = f"with other {got}" if found.differs else f"with {got}"
        raise RunError(f"the figures of {found.name} do not come out again", got=apart)
