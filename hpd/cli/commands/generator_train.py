"""The command `hpd generator train`: from data of one's own to a generator of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpd.cli.own_code import takes_own_code
from hpd.cli.paths import PATH
from hpd.cli.running import interruptible, one_speaks, option_if


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@takes_own_code
@click.option("--data", help="A name, a folder, a file, or a kind with options in YAML. [data]")
@click.option("--out", type=PATH, required=True, help="Folder of the training.")
@click.option(
    "--size", type=click.Choice(["tiny", "small", "base"]), default="tiny", show_default=True,
    help="Of the networks.",
)  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Of training, at most.")
@click.option("--images", type=click.IntRange(1), help="Seen in training, at most.")
@click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness. [0]")
@click.option("--device", default="auto", show_default=True)
@click.option("--licence", default="unknown", show_default=True, help="Of the weights.")
@click.option("--half", is_flag=True, help="Store weights in float16.")
def train(
    overrides: tuple[str, ...], data: str | None, out: Path, half: bool, **options: Any
) -> None:
    """Train a generator on a data set, and keep its best state in OUT/generator.

    Images are square, of 16, 32 or 64 px. KEY=VALUE sets options of the training, and with `data.`
    before it those of the data; `hpd options train` lists them. It ends when samples come no closer
    to the real images, or at --minutes or --images. One that was interrupted goes on where it
    stopped.

    \b
    Example:
      hpd generator train --data photos data.resolution=32 --out runs/mine --minutes 20
      hpd generator train --data cifar10 data.root=data --size small mirror=true --out runs/g
      hpd distill CONFIG source.generator=runs/mine/generator
    """
    from rich.console import Console

    from hpd import api
    from hpd.cli.progress import ProgressBar
    from hpd.cli.tables import say
    from hpd.machine.device import Processes

    given = {key: value for key, value in options.items() if value is not None}
    named = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    flags = ["--half"] if half else []
    command = ["train", *option_if("--data", data), "--out", str(out), *named, *flags, *overrides]
    with interruptible("generator", command):
        processes = Processes.started(cpu=given["device"] == "cpu")
        console = Console(quiet=not processes.is_first)
        with one_speaks(processes), ProgressBar(console, "training a generator") as bar:
            api.train_generator(
                data, *overrides, out=out, half=half, processes=processes, report=bar.on_images,
                say=lambda line: say(console, line), **given,
            )  # fmt: skip
        processes.end()
        say(console, f"the generator, and a page about it: {out / 'generator'}")
