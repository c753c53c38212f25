"""How commands run: where they write, how they end, and what goes on with them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from hpd.interrupts import Interrupts, exit_code

EXIT_BAD_INPUT = 2


def folder_of(config: str, seed: int) -> Path:
    """Return the folder of a configuration's run where the user names none.

    >>> folder_of("results/fashion", 0).name, folder_of("mine/fashion.yaml", 0).name
    ('results-fashion-0', 'fashion-0')
    """
    # it imports torch, which the help of a command does not wait for
    from hpd.config import bundled_configs

    bundled = config in bundled_configs()
    return Path("runs") / f"{config.replace('/', '-') if bundled else Path(config).stem}-{seed}"


def rank() -> int:
    """Return which of the processes of a launcher this is, without importing torch."""
    return int(os.environ.get("RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0)


def runs_a_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what all take that run a configuration, and can go on with it."""
    for decorate in (
        click.option("--dry-run", is_flag=True, help="Print the resolved config and stop."),
        click.option("--resume", is_flag=True, help="Go on with what is there, if anything is."),
        click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness."),
        click.option(
            "--out", type=click.Path(path_type=Path), help="Folder to write to. [runs/NAME-SEED]"
        ),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.argument("config"),
    ):
        command = decorate(command)
    return command


@contextmanager
def interruptible(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on, and an exit code."""
    try:
        with Interrupts():
            yield
    except KeyboardInterrupt as interrupt:
        many = int(os.environ.get("WORLD_SIZE") or 1) > 1
        program = ["accelerate", "launch", "-m", "hpd"] if many else ["hpd"]
        command = shlex.join([*program, name, *arguments])
        if not rank():
            click.echo(f"hpd: interrupted; this goes on: {command}", err=True)
        sys.exit(exit_code(interrupt))


def option_if(name: str, value: object) -> list[str]:
    """Return an option as it is typed; nothing where it was not given."""
    return [] if value is None else [name, str(value)]
