"""Where an option belongs that was given in another place."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

# groups within groups, and places that a message names
_DEEPEST, _MOST = 3, 3


def elsewhere(
    key: str, settings: type[BaseModel], given: Mapping[str, Any],
    registry_of: Callable[[FieldInfo], Any], depth: int = _DEEPEST,
) -> list[str]:  # fmt: skip
    """Return the dotted names, from `settings` on, of the options below them that are called so.

    Args:
        key: of the option.
        settings: where it was given.
        given: the options there: kinds that are given decide which options there are.
        registry_of: the kinds that a field may be of; None: it is of one alone.
        depth: of groups to look into.
    """
    found = []
    for name, field in settings.model_fields.items() if depth else ():
        own = given.get(name)
        below = own if isinstance(own, Mapping) else {}
        for inner in _groups(field, own, registry_of(field)):
            deeper = elsewhere(key, inner, below, registry_of, depth - 1)
            found += [
                f"{name}.{one}" for one in ([key] if key in inner.model_fields else []) + deeper
            ]
    return found


def sentence(places: list[str]) -> str:
    """Return what to write instead, the shortest first; empty where there is no such option.

    >>> sentence(["evaluation.training.steps", "source.steps"])
    "Did you mean 'source.steps' or 'evaluation.training.steps'?"
    """
    shown = sorted(dict.fromkeys(places), key=lambda one: one.count("."))[:_MOST]
    return f"Did you mean {' or '.join(map(repr, shown))}?" if shown else ""


def _groups(field: FieldInfo, given: Any, registry: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings that a field holds, of the kind that is given, or else its default's."""
    if registry is not None:
        kind = given.get("kind") if isinstance(given, Mapping) else given
        if isinstance(kind, str) and kind in registry:
            yield registry[kind]
        elif isinstance(field.default, BaseModel):
            yield type(field.default)
        return
    several = get_origin(field.annotation) in (Union, types.UnionType)
    for one in get_args(field.annotation) if several else [field.annotation]:
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one
