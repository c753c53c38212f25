"""The command `hpd audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH

_READINGS = (
    click.option("--layout", help="Of the files.  [found out]"),
    click.option("--index", type=click.IntRange(min=0), help="Which of several sets in a file."),
    click.option(
        "--range", metavar="NAME",
        help="What values are: unit, bytes, symmetric, data, cifar10, imagenet, ..., MEAN/STD.",
    ),
    click.option(
        "--zca", type=click.Choice(["none", "standardised", "pixels", "per_image"]),
        help="In whose space values are.",
    ),
    click.option(
        "--axes", type=click.Choice(["channels first", "channels last"]), help="Of flat images."
    ),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Which comes first."),
    click.option("--factor", type=click.IntRange(min=1), help="Parts along a side of an image."),
    click.option(
        "--class-order", metavar="ORDER", help="data, alphabetical, found, or all with commas."
    ),
    click.option(
        "--labels", type=click.Choice(["hard", "probabilities", "centred", "logits"]),
        help="What labels are.",
    ),
    click.option("--soft-labels", type=PATH, help="Folder of soft labels in batches."),
    click.option("--fkd-seed", type=int, default=42, help="Of the order of these.  [42]"),
)  # fmt: skip


def _says_what_it_is(command: Any) -> Any:
    """Give a command the options by which a user says what a set is."""
    for option in reversed(_READINGS):
        command = option(command)
    return command


@click.command()
@click.argument("where", type=PATH, metavar="FILE_OR_FOLDER")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--data", required=True, help="The real images: a name, a folder or a file.")
@click.option("--run", "runs", multiple=True, type=PATH, help="A run to judge beside it.")
@click.option("--out", type=PATH, help="A new folder for JSON, a table and a report.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of students.  [0]")
@click.option("--device", default="auto", help="Where to train.  [auto]")
@_says_what_it_is
def audit(
    where: Path, overrides: tuple[str, ...], data: str, runs: tuple[Path, ...], **options: Any
) -> None:
    """Find out what a distilled set of others means, and judge it as runs are judged.

    Reads sets of MTT, GLaD, DM, DC, IDC, RFAD, KIP, SRe2L, RDED, CDA and DD-Ranking, folders of
    pictures, arrays, and what hpd exports; nothing in a file runs. KEY=VALUE sets options of the
    evaluation, of the data (data.root=...), and of how things are found out (find.rows=...).

    \b
    Example:
      hpd audit rfad/best.npz --data cifar10 data.root=FOLDER --out audits/rfad
      hpd audit logged_files/images_best.pt --data photos --range imagenet seeds=3
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.audit_tables import findings_table, show_warnings
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import evaluation_table, say, storage_table

    console = Console()
    with ProgressBar(console, "auditing") as bar:
        found = api.audit(where, data, *overrides, runs=runs, report=bar.on_student, **options)
    console.print(findings_table(found.found))
    show_warnings(console, found.found)
    for evaluation in found.evaluations:
        console.print(evaluation_table(evaluation))
    console.print(storage_table(found.evaluation))
    kept = found.stored.storage
    for part, amount in {"images": kept.images, "labels": kept.labels}.items():
        say(console, f"stored for {part}: {amount.floats:,} floats, {amount.bits:,} bits")
    if found.folder is not None:
        say(console, f"audit: {found.folder}, report: {found.folder / 'report.html'}")
