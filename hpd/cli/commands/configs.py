"""The command `hpd configs`."""

from __future__ import annotations

import click


@click.command()
@click.argument("folder", default="")
def configs(folder: str) -> None:
    """List the bundled configs, or those of one FOLDER of them.

    \b
    Example:
      hpd configs
      hpd configs results
      hpd distill digits --dry-run
    """
    from hpd.disk.yaml_text import read_yaml
    from hpd.errors import ConfigError, nearest
    from hpd.given import bundled_configs

    prefix = folder.rstrip("/") + "/" if folder else ""
    found = {name: path for name, path in bundled_configs().items() if name.startswith(prefix)}
    folders = sorted({name.split("/")[0] for name in bundled_configs() if "/" in name})
    if not found:
        raise ConfigError(f"no folder {folder!r} of configs", fix=nearest(folder, folders))
    shown = {name: path for name, path in found.items() if "/" not in name.removeprefix(prefix)}
    width = max(map(len, shown))
    for name, path in shown.items():
        description = read_yaml(path).get("description", "")
        click.echo(f"{name:<{width}}  {description}")
    if not folder:
        for name in folders:
            count = sum(other.startswith(f"{name}/") for other in found)
            click.echo(f"{name + '/':<{width}}  {count} more: hpd configs {name}")
