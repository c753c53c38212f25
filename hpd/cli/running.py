"""How commands run: where they write, how they end, and what goes on with them."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpd.cli.own_code import imports_given, takes_own_code
from hpd.cli.paths import PATH
from hpd.errors import HpdError, ProcessError
from hpd.machine.interrupts import Interrupts, exit_code
from hpd.machine.launch import Launch, read_launch

if TYPE_CHECKING:
    from hpd.machine.device import Processes

EXIT_BAD_INPUT = 2


def usual_folder(config: str, seed: int) -> Path:
    """Return the folder of a configuration's run where the user names none.

    That of a run goes on there.

    >>> usual_folder("results/fashion", 0).name, usual_folder("mine/fashion.yaml", 0).name
    ('results-fashion-0', 'fashion-0')
    """
    # it imports torch, which the help of a command does not wait for
    from hpd.given import bundled_configs, run_folder

    if (there := run_folder(config)) is not None:
        return there
    bundled = config in bundled_configs()
    return Path("runs") / f"{config.replace('/', '-') if bundled else Path(config).stem}-{seed}"


def rank() -> int:
    """Return which of the processes of a launcher this is, without importing torch."""
    return _launch().rank


def _launch() -> Launch:
    """Return what a launcher said; what is wrong with it is said by what rests on it."""
    try:
        return read_launch()
    except ProcessError:
        return Launch()


def runs_a_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what all take that run a configuration, and can go on with it."""
    for decorate in (
        click.option(
            "--dry-run",
            is_flag=True,
            help="Print the resolved config, check what needs no training, and stop.",
        ),
        click.option("--resume", is_flag=True, help="Go on with what is there, if anything is."),
        click.option("--seed", type=click.IntRange(min=0), help="Root of all randomness."),
        click.option("--out", type=PATH, help="Folder to write to. [runs/NAME-SEED]"),
        takes_own_code,
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
        many = _launch().count > 1
        program = ["accelerate", "launch", "-m", "hpd"] if many else ["hpd"]
        command = shlex.join([*program, name, *arguments, *imports_given()])
        if not rank():
            click.echo(f"hpd: interrupted; this goes on: {command}", err=True)
        sys.exit(exit_code(interrupt))


@contextmanager
def one_speaks(processes: Processes) -> Iterator[None]:
    """Let the first of several processes say what all of them know."""
    loggers = [logging.getLogger(package) for package in ("hpd", "generators")]
    levels = [logger.level for logger in loggers]
    if not processes.is_first:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
    try:
        yield
    except HpdError:
        if processes.told and not processes.is_first:
            sys.exit(EXIT_BAD_INPUT)
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def option_if(name: str, value: object) -> list[str]:
    """Return an option as it is typed; nothing where it was not given."""
    return [] if value is None else [name, str(value)]
