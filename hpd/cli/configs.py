"""The command `hpd configs`."""

from __future__ import annotations

import click


@click.command()
def configs() -> None:
    """List the bundled configs.

    \b
    Example:
      hpd configs
      hpd distill digits --dry-run
    """
    from hpd.config import bundled_configs, parse_yaml

    for name, path in bundled_configs().items():
        description = parse_yaml(path.read_text(), str(path)).get("description", "")
        click.echo(f"{name:<20} {description}")
