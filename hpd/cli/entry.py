"""The command `hpd`: what all commands hang on, and how they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hpd.cli.commands.audit import audit
from hpd.cli.commands.check import check
from hpd.cli.commands.compare import compare
from hpd.cli.commands.configs import configs
from hpd.cli.commands.continual import continual
from hpd.cli.commands.data import data
from hpd.cli.commands.distill import distill
from hpd.cli.commands.evaluate import evaluate
from hpd.cli.commands.experts import experts
from hpd.cli.commands.export import export
from hpd.cli.commands.generator import generator
from hpd.cli.commands.ops import ops
from hpd.cli.commands.options import options
from hpd.cli.commands.pack import pack
from hpd.cli.commands.prune import prune
from hpd.cli.commands.pull import pull
from hpd.cli.commands.push import push
from hpd.cli.commands.relabel import relabel
from hpd.cli.commands.report import report
from hpd.cli.commands.sample import sample
from hpd.cli.commands.squeeze import squeeze
from hpd.cli.commands.theory import theory
from hpd.cli.commands.verify import verify
from hpd.cli.running import EXIT_BAD_INPUT, rank
from hpd.cli.streams import lasting_streams
from hpd.errors import HpdError, cut, one_line
from hpd.machine.allocator import keep_freed_memory

_COMMANDS: tuple[click.Command, ...] = (
    audit, check, compare, configs, continual, data, distill, evaluate, experts, export, generator,
    ops, options, pack, prune, pull, push, relabel, report, sample, squeeze, theory, verify,
)  # fmt: skip


class _Commands(click.Group):
    """Turns errors that the user can mend into one line and exit code 2."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program, to its end even where nobody reads what it says."""
        with lasting_streams() as failures:
            try:
                return super().main(*args, **options)
            except SystemExit as end:
                sys.stdout.flush()
                if failures and end.code in (None, 0):
                    _say(f"cannot write to standard output: {failures[0].strerror}")
                    raise SystemExit(EXIT_BAD_INPUT) from None
                raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        # libraries of torch end a process that has none
        if _is_folder_gone():
            _say("the folder that it was started in is gone. Change to another one.")
            sys.exit(EXIT_BAD_INPUT)
        keep_freed_memory()
        try:
            return super().invoke(ctx)
        # OSError: a full disk, a folder that may not be written to
        except (HpdError, OSError) as error:
            reason = str(error) if isinstance(error, HpdError) else cut(one_line(error))
            _say(f"{type(error).__name__}: {reason}")
        except (MemoryError, RuntimeError) as error:
            # imported where it is needed, as help needs no torch
            from hpd.machine.memory import out_of_memory

            ran_out = out_of_memory(error)
            if ran_out is None:
                raise
            _say(f"{type(ran_out).__name__}: {ran_out}")
        sys.exit(EXIT_BAD_INPUT)


def _say(message: str) -> None:
    """Say in one line why the program ends."""
    who = f"hpd (process {rank()})" if rank() else "hpd"
    click.echo(f"{who}: {one_line(message)}", err=True)


def _is_folder_gone() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False


@click.group(
    cls=_Commands,
    commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="hpd")
def main() -> None:
    """Distil an image data set into a few synthetic images per class.

    \b
    Example:
      hpd distill digits --out runs/digits
      hpd export runs/digits --format imagefolder --out digits-distilled
    """
