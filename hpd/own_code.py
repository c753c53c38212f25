"""Which code of the user's own a configuration rests on, and what to do where it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pydantic import Field

from generators import GENERATORS
from hpd.foreign import Foreign, reading_foreign
from hpd.plugins import Origin, advice, origin_of
from hpd.registry import Settings


class OwnCode(Settings):
    """A component that does not come with hpd. Noted with a run; nothing is imported by it."""

    what: str = Field(description="as messages name it: objective 'mine'")
    module: str = Field(description="in which it is defined")
    given: str = Field("", description="what --import takes to have it again")
    sha256: str | None = Field(None, description="of the module's file")


def own_code_of(settings: Settings) -> list[OwnCode]:
    """Return the components of the user's own that settings name, by name, each once."""
    found = {what: origin for what, origin in _own(settings) if origin is not None}
    return [
        OwnCode(what=what, module=found[what].module, given=found[what].given,
                sha256=found[what].sha256)
        for what in sorted(found)
    ]  # fmt: skip


def _own(value: Any) -> Iterator[tuple[str, Origin | None]]:
    """Yield what is registered, with where it comes from."""
    if isinstance(value, Settings):
        kind = getattr(type(value), "kind_name", None)
        if kind is not None:
            yield kind, origin_of(type(value))
        for name, part in value:
            if name == "generator" and part in GENERATORS:
                yield f"generator {part!r}", origin_of(GENERATORS.maker(part))
            yield from _own(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _own(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _own(part)


def reading(values: Any, *, kept: bool = False) -> AbstractContextManager[None]:
    """Read a configuration by its own notes on code of the user's own; see `reading_foreign`.

    Args:
        values: the configuration as a mapping; anything else notes nothing.
        kept: see `Foreign`.
    """
    notes = values.get("own_code") if isinstance(values, Mapping) else None
    hints = {
        str(note["what"]): advice(str(note.get("given", "")))
        for note in (notes if isinstance(notes, list) else [])
        if isinstance(note, Mapping) and "what" in note
    }
    return reading_foreign(Foreign(kept, hints))


def changed_code(before: list[OwnCode], after: list[OwnCode]) -> list[str]:
    """Return the components of two notes that are of another file now, as messages say it."""
    was = {note.what: note.sha256 for note in before}
    return [
        f"{note.what} ({note.given or note.module})"
        for note in after
        if note.what in was and was[note.what] != note.sha256
    ]
