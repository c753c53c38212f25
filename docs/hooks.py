"""Options of settings as tables, from their fields, so that a page cannot say otherwise."""

from __future__ import annotations

import importlib
import re
from typing import Any

from pydantic.fields import FieldInfo

_MARK = re.compile(r"<!-- options: (?P<module>[\w.]+)\.(?P<name>\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each ``<!-- options: module.Settings -->`` by a table; called by mkdocs."""
    return _MARK.sub(lambda match: option_table(match["module"], match["name"]), markdown)


def option_table(module: str, name: str) -> str:
    """Return a Markdown table of a settings class: option, default, meaning."""
    fields = getattr(importlib.import_module(module), name).model_fields
    rows = [f"| `{key}` | {_default(field)} | {_meaning(field)} |" for key, field in fields.items()]
    return "\n".join(["| option | default | |", "|---|---|---|", *rows])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    # settings inside settings have pages or tables of their own
    return "see below" if hasattr(value, "model_fields") else f"`{value}`".replace("|", "\\|")


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|").replace("\n", " ")
