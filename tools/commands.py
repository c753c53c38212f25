"""The command of a tool, and how it fails: in one line where the user can mend it, as `hpd`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hpd.errors import HpdError


class Tool(click.Command):
    """Turns errors that the user can mend into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the tool."""
        try:
            return super().invoke(ctx)
        # OSError: a full disk, a folder that may not be written to
        except (HpdError, OSError) as error:
            message = " ".join(str(error).split())
            raise click.ClickException(f"{type(error).__name__}: {message}") from None


def tool(text: str | None = None) -> Callable[[Callable[..., Any]], Tool]:
    """Return what makes a function a command.

    Args:
        text: of its help, the function's own if there is none.
    """
    options = {"help_option_names": ["-h", "--help"]}
    return click.command(cls=Tool, help=text, context_settings=options)
