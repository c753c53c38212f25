"""The command `hpd check`."""

from __future__ import annotations

from pathlib import Path

import click

from hpd.cli.own_code import takes_own_code


@click.command()
@click.argument("name")
@click.argument("options", nargs=-1, metavar="[FILE] [KEY=VALUE]...")
@takes_own_code
@click.option("--data", help="A name or a folder.  [three classes of digits]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def check(name: str, options: tuple[str, ...], data: str | None, seed: int) -> None:
    """Check that a component of your own does what is asked of its kind.

    NAME is objective.KIND, source.KIND, selector.KIND or student.KIND, with options as KEY=VALUE;
    or generator.NAME, or the word generator before the name, folder or file of one. A line for
    each thing that holds; the first that does not is an error.

    \b
    Example:
      hpd check generator digits16
      hpd check objective.distribution real_batch=8
      hpd check objective.mine --import my_module
    """
    from rich.console import Console

    from hpd import api
    from hpd.api.checking import AXES
    from hpd.cli.progress import ProgressBar
    from hpd.errors import ConfigError, nearest

    axis, _, kind = name.partition(".")
    if axis == "generator" and kind:
        name, options = axis, (kind, *options)
    # with the name of its group, as in a configuration
    options = tuple(option.removeprefix(f"{axis}.") for option in options)
    if name == "generator":
        if len(options) != 1:
            got, fix = " ".join(options) or "none", "Write: hpd check generator NAME."
            raise ConfigError("one generator is checked at a time", got=got, fix=fix)
        report = api.check(Path(options[0]), seed=seed)
    elif axis in AXES and kind:
        with ProgressBar(Console(), None):
            report = api.check(name, *options, data=data, seed=seed)
    else:
        known = ["generator", *(f"{axis}.{kind}" for axis in AXES for kind in AXES[axis])]
        raise ConfigError(f"nothing to check is named {name!r}", fix=nearest(name, known))
    for line in report.lines:
        click.echo(line)
    click.echo(f"{report.subject} is as asked")
