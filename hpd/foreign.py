"""What comes from elsewhere, with kinds that nobody registered here: kept, and explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from hpd.errors import ConfigError


@dataclass(frozen=True)
class Foreign:
    """How a configuration from elsewhere is read.

    Args:
        kept: whether settings of an unknown kind are kept as they are, in place of an error.
        hints: what to do about something that is unknown, by what messages call it.
    """

    kept: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)


_HERE = Foreign()
_FOREIGN: ContextVar[Foreign] = ContextVar("_FOREIGN", default=_HERE)
_OWN = "One of your own is known once its module is imported: --import MODULE."


@contextmanager
def reading_foreign(foreign: Foreign) -> Iterator[None]:
    """Read, for the length of a block, what came from elsewhere."""
    token = _FOREIGN.set(foreign)
    try:
        yield
    finally:
        _FOREIGN.reset(token)


def unknown_is_kept() -> bool:
    """Return whether settings of an unknown kind are kept in this block."""
    return _FOREIGN.get().kept


def foreign_hint(what: str, fix: str) -> str:
    """Return what to do about something unknown.

    Args:
        what: it is, as messages name it: ``"objective 'mine'"``.
        fix: what to do where nothing is known of it: the nearest name, or a list of names.
    """
    hints = _FOREIGN.get().hints
    if what in hints:
        return hints[what]
    return f"{fix} {_OWN}" if fix.startswith("Known:") else fix


class Unknown:
    """Settings of a kind that is not known here: kept as they are, and good for nothing else."""

    def unknown_kind(self) -> str:
        """Return the name of the kind."""
        return str(self.kind)  # type: ignore[attr-defined]


def unknown_of(axis: str, base: type[BaseModel], root: type[BaseModel]) -> type[Any]:
    """Return a class of settings that has what all of an axis have, and keeps any other option.

    Args:
        axis: what is registered.
        base: of all settings of the axis.
        root: of all settings.
    """

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise ConfigError(f"{axis} {self.unknown_kind()!r} is not known here", fix=self._hint)

    class Kept(base, Unknown):  # type: ignore[valid-type, misc]
        model_config = ConfigDict(extra="allow")
        _hint: str = PrivateAttr(_OWN)

        @model_validator(mode="before")
        @classmethod
        def _refuse_unknown_keys(cls, values: Any) -> Any:
            return values

        def model_post_init(self, context: Any) -> None:
            what = f"{axis} {self.unknown_kind()!r}"
            self._hint = _FOREIGN.get().hints.get(what, _OWN)

    Kept.kind_name = f"an unknown {axis}"
    # what a kind would do, nobody knows; what all have, such as the classes of data, is there
    for cls in base.__mro__[: base.__mro__.index(root)]:
        for name, value in vars(cls).items():
            if isinstance(value, FunctionType) and not name.startswith("_"):
                setattr(Kept, name, refuse)
    return Kept
