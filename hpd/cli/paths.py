"""Paths as words of a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hpd.disk.paths import check_path
from hpd.errors import ConfigError


class _PathType(click.Path):
    """A path that the system could take, whether anything is there or not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        try:
            check_path(os.fsdecode(path), "the path is not valid")
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return path


PATH = _PathType(path_type=Path)
