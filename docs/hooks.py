"""Options of settings as tables, from their fields, so that a page cannot say otherwise."""

from __future__ import annotations

import importlib
import re
from typing import Any

from hpd.option_rows import option_rows

_MARK = re.compile(r"<!-- options: (?P<module>[\w.]+)\.(?P<name>\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each ``<!-- options: module.Settings -->`` by a table; called by mkdocs."""
    return _MARK.sub(lambda match: option_table(match["module"], match["name"]), markdown)


def option_table(module: str, name: str) -> str:
    """Return a Markdown table of a settings class: option, type, default, meaning."""
    rows = option_rows(getattr(importlib.import_module(module), name))
    lines = [
        f"| `{row.name}` | {_cell(row.type)} |"
        f" {'*required*' if row.default is None else f'`{_cell(row.default)}`'} |"
        f" {_cell(row.meaning)} |"
        for row in rows
    ]
    return "\n".join(["| option | takes | default | |", "|---|---|---|---|", *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
