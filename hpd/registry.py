"""Registries of components, and the settings that describe them.

A component is one file: a frozen `Settings` class whose fields are its options (the one home of
each default) and whose `build` makes the component. The registry maps the `kind` in a config to
that class; tests run over the registries, so a new file is tested without touching them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from hpd.disk.yaml_text import Place, Placed, laid_over
from hpd.errors import ConfigError, nearest, shown
from hpd.foreign import Unknown, foreign_hint, unknown_is_kept, unknown_of
from hpd.misplaced import elsewhere, sentence
from hpd.plugins import load_packages
from hpd.typing import LARGEST_INT


@dataclass(frozen=True)
class Only:
    """Marks an option that does something only with certain values of another beside it.

    Written as ``Annotated[float, Only("kind", "adam")]``. Set to anything but its default where it
    does nothing, it is an error.

    Args:
        option: the other one.
        values: with which this one does something; of a list one of them must be in it. None
            given: all but zero, null, false and what is empty.
    """

    option: str
    values: tuple[Any, ...]

    def __init__(self, option: str, *values: Any) -> None:
        object.__setattr__(self, "option", option)
        object.__setattr__(self, "values", values)

    def holds(self, found: Any) -> bool:
        """Return whether the option does something with this value of the other."""
        if not self.values:
            return bool(found)
        if isinstance(found, list | tuple):
            return any(value in found for value in self.values)
        return found in self.values


class Settings(BaseModel):
    """Options of a component: typed, frozen, and strict about unknown keys and wrong types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(error, type(self).section()) from None

    # what pydantic asks for to make nested settings without it, whose errors are of the whole
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    meant = sentence(elsewhere(str(key), cls, values, registry_of))
                    raise ConfigError(
                        f"unknown key {key!r} in {cls.section()}",
                        fix=meant or nearest(str(key), cls.model_fields),
                        option=str(key),
                    )
        return values

    @model_validator(mode="before")
    @classmethod
    def _lay_over_defaults(cls, values: Any) -> Any:
        """Take from the default of a group of options what is not given, its kind above all."""
        if not isinstance(values, Mapping):
            return values
        completed = dict(values)
        for name, field in cls.model_fields.items():
            given = values.get(name)
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if isinstance(given, Mapping) and isinstance(default, Settings):
                below = default.changed(registry_of(field))
                if given.get("kind", below.get("kind")) == below.get("kind"):
                    below = type(default).applicable(below, given)
                    completed[name] = laid_over(below, given)
        return completed

    @model_validator(mode="after")
    def _refuse_what_cannot_be_used(self) -> Self:
        for name in self.model_fields_set:
            for value in _flat(vars(self).get(name)):
                if isinstance(value, int) and abs(value) > LARGEST_INT:
                    raise self._wrong(name, shown(value), f"at most {LARGEST_INT}")
                if isinstance(value, str) and "\0" in value:
                    raise self._wrong(name, repr(value), "text without zeros")
        return self

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        for name, only in self.conditions():
            value, other = vars(self)[name], vars(self)[only.option]
            if name not in self.model_fields_set or only.holds(other):
                continue
            if value != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ConfigError(
                    f"{name} in {self.section()} does nothing with {only.option} {other}",
                    got=value,
                    fix=f"Leave it out, or set {only.option}{_listed(only.values)}.",
                    option=name,
                    because=only.option,
                )
        return self

    @classmethod
    def conditions(cls) -> Iterator[tuple[str, Only]]:
        """Yield the options that do something only with a value of another."""
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Only):
                    yield name, mark

    @classmethod
    def applicable(cls, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return of `defaults` what does something beside the options that are given."""
        values = {**defaults, **given}
        moot = {
            name
            for name, only in cls.conditions()
            if not only.holds(values.get(only.option, cls.model_fields[only.option].default))
        }
        return {key: value for key, value in defaults.items() if key not in moot}

    def changed(self, registry: Registry[Any] | None = None) -> dict[str, Any]:
        """Return the options that differ from their defaults, as `read` takes them.

        Args:
            registry: that has the kind of these settings; None where they have none.
        """
        options: dict[str, Any] = {} if registry is None else {"kind": registry.kind_of(self)}
        for name, field in type(self).model_fields.items():
            value = vars(self)[name]
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if field.is_required() or value != default:
                own = isinstance(value, Settings)
                options[name] = _over(value, default, registry_of(field)) if own else value
        return options

    def _wrong(self, name: str, got: object, expected: str) -> ConfigError:
        problem = f"{name} in {self.section()} is not valid"
        return ConfigError(problem, got=got, expected=expected, option=name)

    @classmethod
    def section(cls) -> str:
        """Return how messages name this group of options."""
        return getattr(cls, "kind_name", None) or cls.__name__.removesuffix("Settings").lower()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and return the settings.

        Args:
            values: options by name. Of `Placed` ones the error names the place, and one that does
                nothing on account of another from a layer above is left out.

        Raises:
            ConfigError: naming the first option that is wrong, what was got and what was expected.
        """
        if not isinstance(values, Mapping):
            got, expected = type(values).__name__, "options by name"
            raise ConfigError(f"{cls.section()} is not valid", got=got, expected=expected)
        while True:
            try:
                return cls.model_validate(dict(values))
            except ValidationError as problem:
                error = _explain(problem, cls.section())
            if not isinstance(values, Placed):
                raise error from None
            place, above = values.place_of(error.option), values.place_of(error.because)
            if not (error.because and place and above and above.layer > place.layer):
                raise _placed(error, place) from None
            values = values.without(error.option)


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """Return the registry of a field that is declared as ``Annotated[XSettings, XS]``."""
    return next((mark for mark in field.metadata if isinstance(mark, Registry)), None)


def _placed(error: ConfigError, place: Place | None) -> ConfigError:
    """Return an error that says where the option was given."""
    if place is None or not place.text:
        return error
    return ConfigError(
        f"{place.text}: {error.problem}", got=error.got, expected=error.expected, fix=error.fix
    )


def _over(value: Settings, default: Any, registry: Registry[Any] | None) -> dict[str, Any]:
    """Return the options that give `value` where `default` lies below what is not given.

    An option that is as its own class has it must be told if the default of the group is not.
    """
    options = value.changed(registry)
    if type(default) is not type(value):
        return options
    for name, field in type(value).model_fields.items():
        mine, theirs = vars(value)[name], vars(default)[name]
        if mine == theirs:
            continue
        own = isinstance(mine, Settings)
        options[name] = _over(mine, theirs, registry_of(field)) if own else mine
    return options


def _flat(value: Any) -> Iterator[Any]:
    """Yield a value, or the values of lists in it."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _flat(part)
    else:
        yield value


def _listed(values: Sequence[Any]) -> str:
    shown = ["null" if value is None else str(value) for value in values]
    return f" to {' or '.join(shown)}" if shown else ""


def _explain(error: ValidationError, section: str) -> ConfigError:
    """Turn pydantic's report into one line about the first option that is wrong."""
    found = error.errors(include_url=False)
    where = _option(found[0]["loc"])
    cause = found[0].get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(
            cause.problem, got=cause.got, expected=cause.expected, fix=cause.fix,
            option=".".join(part for part in (where, cause.option) if part),
            because=f"{where}.{cause.because}" if where and cause.because else cause.because,
        )  # fmt: skip
    if found[0]["type"] == "missing":
        return ConfigError(f"missing key {where!r} in {section}", option=where)
    # an option of several types has one entry for each
    wanted = [
        entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        for entry in found
        if _option(entry["loc"]) == where
    ]
    return ConfigError(
        f"{where or 'options'} in {section} is not valid",
        got=shown(found[0]["input"]),
        expected=" or ".join(dict.fromkeys(wanted)),
        option=where,
    )


# pydantic's names of the types that an option may have
_TYPES = re.compile(r"int|float|str|(list|literal|dict|tuple)\[.*\]|function-\w+\[.*\]|.*Settings")


def _option(location: tuple[int | str, ...]) -> str:
    """Return the dotted name of an option, without pydantic's names of the types it may have."""
    return ".".join(str(part) for part in location if not _TYPES.fullmatch(str(part)))


SettingsType = TypeVar("SettingsType", bound=Settings)


class Registry(Generic[SettingsType]):
    """Names of one kind of component and the settings class behind each.

    Args:
        axis: what is registered, in the singular, for messages: ``"source"``.
        base: what its settings classes are derived from.
    """

    def __init__(self, axis: str, base: type[Settings] = Settings) -> None:
        self.axis, self._base = axis, base
        self._classes: dict[str, type[SettingsType]] = {}

    def register(self, kind: str) -> Callable[[type[SettingsType]], type[SettingsType]]:
        """Return a class decorator that registers a settings class under `kind`.

        A class defined again, as in a cell of a notebook, takes the place of the one before.
        """

        def add(cls: type[SettingsType]) -> type[SettingsType]:
            if not (isinstance(cls, type) and issubclass(cls, self._base)):
                got, expected = shown(cls), f"a class derived from {self._base.__name__}"
                problem = f"{self.axis} {kind!r} cannot be registered"
                raise ConfigError(problem, got=got, expected=expected)
            other = self._classes.get(kind, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(f"{self.axis} {kind!r} is registered twice")
            cls.kind_name = f"{self.axis} {kind!r}"  # type: ignore[attr-defined]
            self._classes[kind] = cls
            return cls

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes or (load_packages() and kind in self._classes)

    def __getitem__(self, kind: str) -> type[SettingsType]:
        """Return the settings class of `kind`.

        Raises:
            ConfigError: with the nearest known name.
        """
        if kind not in self:
            what, fix = f"{self.axis} {kind!r}", nearest(kind, self._classes)
            raise ConfigError(f"unknown {what}", fix=foreign_hint(what, fix))
        return self._classes[kind]

    def kind_of(self, settings: SettingsType) -> str:
        """Return the name under which the class of `settings` is registered."""
        if isinstance(settings, Unknown):
            return settings.unknown_kind()
        return next(k for k, cls in self._classes.items() if type(settings) is cls)

    def parse(self, values: Any) -> SettingsType:
        """Turn ``{"kind": K, option: value, ...}``, a bare ``K`` or settings into settings.

        Raises:
            ConfigError: if `kind` is missing or unknown, or an option is.
        """
        if any(isinstance(values, cls) for cls in (*self._classes.values(), self.unknown)):
            return values
        if isinstance(values, str):
            values = {"kind": values}
        if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
            raise ConfigError(
                f"{self.axis} needs a kind",
                got=values,
                expected=f"one of {', '.join(self)}",
                fix=f"Write for example `{self.axis}: {{kind: {next(iter(self))}}}`.",
            )
        if unknown_is_kept() and values["kind"] not in self:
            return self.unknown.read(dict(values))
        options = {key: value for key, value in values.items() if key != "kind"}
        return self[values["kind"]].read(options)

    @cached_property
    def unknown(self) -> type[SettingsType]:
        """The class of settings whose kind is not known here; see `hpd.foreign`."""
        return unknown_of(self.axis, self._base, Settings)

    def dump(self, settings: SettingsType) -> dict[str, Any]:
        """Return the mapping that `parse` reads back, with every default written out."""
        return {"kind": self.kind_of(settings), **settings.model_dump(mode="json")}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let a settings field be declared as ``Annotated[XSettings, XS]``."""
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(self.dump),
        )
