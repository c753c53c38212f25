"""The command `hpd`: what all commands hang on, and how they fail."""

from __future__ import annotations

import sys
from typing import Any

import click

from hpd.allocator import keep_freed_memory
from hpd.cli.compare import compare
from hpd.cli.configs import configs
from hpd.cli.continual import continual
from hpd.cli.data import data
from hpd.cli.distill import distill
from hpd.cli.evaluate import evaluate
from hpd.cli.experts import experts
from hpd.cli.export import export
from hpd.cli.generator import generator
from hpd.cli.ops import ops
from hpd.cli.prune import prune
from hpd.cli.relabel import relabel
from hpd.cli.report import report
from hpd.cli.running import EXIT_BAD_INPUT, rank
from hpd.cli.sample import sample
from hpd.cli.squeeze import squeeze
from hpd.cli.theory import theory
from hpd.errors import HpdError

_COMMANDS: tuple[click.Command, ...] = (
    compare, configs, continual, data, distill, evaluate, experts, export, generator, ops, prune,
    relabel, report, sample, squeeze, theory,
)  # fmt: skip


class _Commands(click.Group):
    """Turns errors that the user can mend into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        keep_freed_memory()
        try:
            return super().invoke(ctx)
        # OSError: a full disk, a folder that may not be written to
        except (HpdError, OSError) as error:
            message = " ".join(str(error).split())
            who = f"hpd (process {rank()})" if rank() else "hpd"
            click.echo(f"{who}: {type(error).__name__}: {message}", err=True)
            sys.exit(EXIT_BAD_INPUT)


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
