"""The option ``--import``: code of the user's own, for one command."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

_KEY = "hpd.imports"


def takes_own_code(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--import``, which imports before any other option is looked at."""
    return click.option(
        "--import", "imports", multiple=True, metavar="MODULE", expose_value=False, is_eager=True,
        callback=_import,
        help="Import code of your own first, a module or a .py file; may be given again.",
    )(command)  # fmt: skip


def imports_given() -> list[str]:
    """Return the option as it was typed for the command that runs, to be typed again."""
    context = click.get_current_context(silent=True)
    names = [] if context is None else context.meta.get(_KEY, [])
    return [word for name in names for word in ("--import", name)]


def _import(context: click.Context, option: click.Parameter, names: Sequence[str]) -> None:
    from hpd.plugins import import_module

    context.meta[_KEY] = list(names)
    for name in names:
        import_module(name)
