"""The command line: a thin shell over `hpd.api`, one file a command."""

from hpd.cli.entry import main

__all__ = ["main"]
