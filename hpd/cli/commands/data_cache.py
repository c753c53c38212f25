"""The command `hpd data cache`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpd.cli.paths import PATH

if TYPE_CHECKING:
    from hpd.data.row_cache import Stored


@click.command()
@click.argument("where", nargs=-1, type=PATH)
@click.option("--clear", is_flag=True, help="Remove them; they are made again when they are used.")
def cache(where: tuple[Path, ...], clear: bool) -> None:
    """List the images that are kept ready: all, or those of some data folders and files.

    A large set is decoded once and kept as plain bytes, in HPD_CACHE or in the user's cache.

    \b
    Example:
      hpd data cache
      hpd data cache photos --clear
    """
    from hpd.data import row_cache
    from hpd.disk.cache import cache_folder
    from hpd.machine.memory import as_text

    places = {os.path.realpath(place) for place in where}
    every = row_cache.stored_listings()
    listed = [s for s in every if not places or s.identity["root"] in places]
    if clear:
        kept = [stored for stored in every if stored not in listed]
        click.echo(f"{as_text(row_cache.clear(keep=kept))} freed in {cache_folder('rows')}")
        return
    if listed:
        _show(listed)
    total = as_text(sum(stored.size_bytes for stored in listed))
    click.echo(f"{len(listed)} sets of images, {total} in {cache_folder('rows')}")


def _show(listed: Sequence[Stored]) -> None:
    from datetime import datetime

    from rich.console import Console

    from hpd.cli.tables import text_table
    from hpd.machine.memory import as_text

    rows = [
        [
            _place(stored),
            f"{stored.count('train'):,} + {stored.count('test'):,}",
            "x".join(map(str, stored.shape)),
            as_text(stored.size_bytes),
            datetime.fromtimestamp(stored.used).strftime("%Y-%m-%d"),
        ]
        for stored in listed
    ]
    Console().print(text_table(["place", "images", "shape", "disk", "last used"], rows, left=1))


def _place(stored: Stored) -> str:
    """Return where the pictures are, and whether they still are."""
    root = str(stored.identity["root"])
    return root if Path(root).exists() else f"{root} (gone)"
