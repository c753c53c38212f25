"""The command `hpd squeeze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.cli.running import interruptible

if TYPE_CHECKING:
    from hpd.students.teachers import Teacher


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", required=True, help="A name, a folder, or a YAML mapping.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the teacher."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--resnet20", type=click.Path(path_type=Path),
    help="Weights of the ResNet-20 for CIFAR-10, to keep instead of training.",
)  # fmt: skip
def squeeze(overrides: tuple[str, ...], data: str, out: Path, **options: Any) -> None:
    """Train the teacher with batch norm that the objective `recovery` and `hpd relabel` ask.

    KEY=VALUE sets options of student and training. A training that was interrupted goes on where
    it stopped.

    \b
    Example:
      hpd squeeze --data digits --out runs/teacher training.epochs=20
      hpd squeeze --data '{kind: cifar10, root: data}' --resnet20 FILE --out runs/cifar10-teacher
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar

    console, given = Console(), {k: v for k, v in options.items() if v is not None}
    named = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    command = ["--data", data, "--out", str(out), *named, *overrides]
    with interruptible("squeeze", command), ProgressBar(console, "training a teacher") as bar:
        teacher = api.squeeze(
            _parsed(data), *overrides, out=out, report=bar.on_teacher,
            on_setup=lambda settings, epochs: bar.expect_epochs(epochs), **given,
        )  # fmt: skip
    console.print(f"{_describe(teacher)}: {out}", highlight=False, soft_wrap=True)


def _parsed(data: str) -> Any:
    """Return a mapping that was written as YAML; any other text names a data set or a folder."""
    from hpd.config import parse_yaml

    return parse_yaml(data, "--data") if data.lstrip().startswith("{") else data


def _describe(teacher: Teacher) -> str:
    """Return one line about a teacher: what it is, and what it came to."""
    from hpd.students import STUDENTS

    record = teacher.record
    name = STUDENTS.kind_of(record.student) if record.origin == "trained" else record.origin
    losses = record.losses
    parts = [name]
    if losses:
        parts.append(f"{len(losses)} epochs: loss {losses[0]:.4g} -> {losses[-1]:.4g}")
    for share, where in ((record.accuracy_train, "training"), (record.accuracy_test, "test")):
        if share is not None:
            parts.append(f"accuracy {share:.1%} on {where} images")
    return ", ".join(parts)
