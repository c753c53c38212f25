"""What options there are, from the fields of settings: what pages and `hpd options` show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hpd.errors import ConfigError, nearest
from hpd.registry import Only, Registry, Settings, registry_of

_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any"}
_DEEPEST = 20


@dataclass(frozen=True)
class OptionRow:
    """One option of a component.

    Args:
        name: of the option.
        type: what it takes, in words.
        default: as YAML; None if it must be given.
        meaning: its description, with what it does something beside.
    """

    name: str
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Place:
    """Where a dotted name leads: to the options of a component, or to kinds to choose from.

    Args:
        settings: whose options these are; None for kinds.
        kinds: to choose from; None for options.
        default: the kind that is taken where none is given.
        only: the one option that was named, if any; beside kinds, of each that has it.
    """

    settings: type[Settings] | None = None
    kinds: Registry[Any] | None = None
    default: str | None = None
    only: str | None = None

    @property
    def rows(self) -> list[OptionRow]:
        """The options, or the kinds with what each is."""
        if self.settings is not None:
            rows = option_rows(self.settings)
            return [row for row in rows if self.only in (None, row.name)]
        if self.only is not None:
            return [
                replace(row, name=f"{kind}.{row.name}")
                for kind, cls in self._classes()
                for row in option_rows(cls)
                if row.name == self.only
            ]
        return [
            OptionRow(kind, "kind", "default" if kind == self.default else "", _first_line(cls))
            for kind, cls in self._classes()
        ]

    def inner(self, name: str) -> Place:
        """Return where a further name leads.

        Raises:
            ConfigError: with the nearest name that does.
        """
        if self.kinds is not None:
            return self._inner_of_kinds(name)
        assert self.settings is not None
        fields = self.settings.model_fields
        if self.only is not None or name not in fields:
            raise _unknown(name, [] if self.only is not None else list(fields))
        return _place_of(fields[name]) or Place(self.settings, only=name)

    def _inner_of_kinds(self, name: str) -> Place:
        """Return where a kind leads, or an option of the default kind or of whichever have it."""
        assert self.kinds is not None
        if self.only is None and name in self.kinds:
            return Place(self.kinds[name])
        holders = [kind for kind, cls in self._classes() if name in cls.model_fields]
        if self.only is not None or not holders:
            raise _unknown(name, [] if self.only is not None else list(self.kinds))
        kind = self.default if self.default in holders else holders[0]
        found = Place(self.kinds[kind]).inner(name)
        several = self.default not in holders and len(holders) > 1 and found.only is not None
        return Place(kinds=self.kinds, only=name) if several else found

    def _classes(self) -> Iterator[tuple[str, type[Settings]]]:
        assert self.kinds is not None
        for kind in self.kinds:
            yield kind, self.kinds[kind]


def find_options(name: str, roots: Mapping[str, Place]) -> Place:
    """Return where a dotted name leads.

    Args:
        name: such as ``objective.gradient``, or ``source.of.images_per_class``.
        roots: where first names lead.

    Raises:
        ConfigError: with the nearest name, if it leads nowhere.
    """
    first, *rest = name.split(".")
    if first not in roots:
        raise _unknown(first, list(roots))
    place = roots[first]
    for part in rest[:_DEEPEST]:
        place = place.inner(part)
    return place


def places_of(settings: type[Settings]) -> dict[str, Place]:
    """Return where the names of a component's groups of options lead, and of its options."""
    return {
        name: _place_of(field) or Place(settings, only=name)
        for name, field in settings.model_fields.items()
    }


def option_rows(settings: type[Settings]) -> list[OptionRow]:
    """Return the options of a component, in their order."""
    conditions = dict(settings.conditions())
    return [
        OptionRow(name, _type_of(field), _default_of(field), _meaning(field, conditions.get(name)))
        for name, field in settings.model_fields.items()
    ]


def _unknown(name: str, known: list[str]) -> ConfigError:
    fix = nearest(name, known) if known else "It has no options of its own."
    return ConfigError(f"no options {name!r}", fix=fix)


def _place_of(field: FieldInfo) -> Place | None:
    """Return where the options of a field stand; None for a plain value."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    kinds = registry_of(field) or _registry_in(field.annotation)
    if kinds is not None:
        kind = kinds.kind_of(default) if isinstance(default, Settings) else None
        return Place(kinds=kinds, default=kind)
    own = _settings_in(field.annotation)
    return None if own is None else Place(own)


def _registry_in(annotation: Any) -> Registry[Any] | None:
    """Return the registry that a list, a mapping or a choice of annotated settings has."""
    marks = getattr(annotation, "__metadata__", ())
    found = next((mark for mark in marks if isinstance(mark, Registry)), None)
    return found or next(filter(None, map(_registry_in, get_args(annotation))), None)


def _settings_in(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(_settings_in, get_args(annotation))), None)


def _type_of(field: FieldInfo) -> str:
    kinds = registry_of(field)
    return _kinds_text(kinds) if kinds is not None else _type_text(field.annotation)


def _kinds_text(kinds: Registry[Any]) -> str:
    return " | ".join(kinds)


def _type_text(annotation: Any) -> str:
    """Return in words what an annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kinds = _registry_in(annotation)
        return _kinds_text(kinds) if kinds is not None else _type_text(inner[0])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " | ".join(_type_text(part) for part in inner)
    if origin in (list, tuple):
        return f"list of {_type_text(inner[0])}"
    if origin is dict:
        return f"mapping of names to {_type_text(inner[1])}"
    if annotation is NoneType:
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "options"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default_of(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    kinds = registry_of(field)
    if isinstance(value, Settings):
        changed = value.changed(kinds)
        if len(changed) == (kinds is not None):
            return "its own defaults" if kinds is None else kinds.kind_of(value)
        return _as_text(changed)
    return _as_text(value)


def _as_text(value: Any) -> str:
    """Return a value as one writes it after ``=``."""
    if isinstance(value, list | tuple) and any(isinstance(part, Settings) for part in value):
        return "see its own options"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _meaning(field: FieldInfo, only: Only | None) -> str:
    text = " ".join((field.description or "").split())
    if only is None:
        return text
    values = " or ".join("null" if value is None else str(value) for value in only.values)
    beside = f"only with {only.option}" + (f" {values}" if values else "")
    return f"{text} ({beside})" if text else beside


def _first_line(settings: type[Settings]) -> str:
    return (settings.__doc__ or "").strip().partition("\n")[0]
