"""The command `hpd squeeze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import interruptible, option_if

if TYPE_CHECKING:
    from hpd.students.teachers import Teacher


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--data", help="A name, a folder, a file, or a kind with options in YAML. [data]")
@click.option("--out", type=PATH, required=True, help="Folder of the teacher.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--resnet20", type=PATH,
    help="Weights of the ResNet-20 for CIFAR-10, to keep instead of training.",
)  # fmt: skip
@click.option(
    "--weights", type=PATH,
    help="Weights of torchvision's ResNet-18, to keep instead of training: .pth or safetensors.",
)  # fmt: skip
def squeeze(overrides: tuple[str, ...], data: str | None, out: Path, **options: Any) -> None:
    """Train the teacher with batch norm that the objective `recovery` and `hpd relabel` ask.

    KEY=VALUE sets options of student and training, and with `data.` before it those of the data;
    with --weights, `mean` and `std` by which images were normalised. A training that was
    interrupted goes on where it stopped.

    \b
    Example:
      hpd squeeze --data digits --out runs/teacher training.epochs=20
      hpd squeeze data=photos data.resolution=32 --out runs/photos-teacher
      hpd squeeze --data '{kind: cifar10, root: data}' --resnet20 FILE --out runs/cifar10-teacher
      hpd squeeze --data '{kind: folder, root: data, resolution: 224}' --weights FILE --out runs/t
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say

    console, given = Console(), {k: v for k, v in options.items() if v is not None}
    named = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    command = [*option_if("--data", data), "--out", str(out), *named, *overrides]
    with interruptible("squeeze", command), ProgressBar(console, "training a teacher") as bar:
        teacher = api.squeeze(
            data, *overrides, out=out, report=bar.on_teacher,
            on_setup=lambda settings, epochs: bar.expect_epochs(epochs), **given,
        )  # fmt: skip
    say(console, f"{_describe(teacher)}: {out}")


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
