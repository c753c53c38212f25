"""The command `hpd squeeze`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.commands import interruptible


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
    import yaml
    from rich.console import Console

    from hpd import api
    from hpd.console import ProgressBar, describe_teacher

    console, given = Console(), {k: v for k, v in options.items() if v is not None}
    named = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    command = ["--data", data, "--out", str(out), *named, *overrides]
    with interruptible("squeeze", command), ProgressBar(console, "training a teacher") as bar:
        teacher = api.squeeze(
            _parsed(data, yaml.safe_load), *overrides, out=out, report=bar.on_teacher,
            on_setup=lambda settings: bar.expect_epochs(settings.training.epochs), **given,
        )  # fmt: skip
    console.print(f"{describe_teacher(teacher)}: {out}", highlight=False, soft_wrap=True)


def _parsed(data: str, load: Any) -> Any:
    """Return a mapping that was written as YAML; any other text names a data set or a folder."""
    return load(data) if data.lstrip().startswith("{") else data
