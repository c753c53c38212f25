"""The commands `hpd data`: what is in a data set, and what is kept of it."""

from __future__ import annotations

import click

from hpd.cli.commands.data_cache import cache
from hpd.cli.commands.data_inspect import inspect


@click.group(commands=(inspect, cache))
def data() -> None:
    """Look at a data set before a run, and at the images that are kept ready.

    \b
    Example:
      hpd data inspect photos
      hpd data cache
    """
