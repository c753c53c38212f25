"""Registries of components, and the settings that describe them.

A component is one file: a frozen `Settings` class whose fields are its options (the one home of
each default) and whose `build` makes the component. The registry maps the `kind` in a config to
that class; tests run over the registries, so a new file is tested without touching them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from hpd.errors import ConfigError, nearest


class Settings(BaseModel):
    """Options of a component: typed, frozen, and strict about unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ConfigError(
                        f"unknown key {key!r} in {cls.section()}",
                        fix=nearest(str(key), cls.model_fields),
                    )
        return values

    @classmethod
    def section(cls) -> str:
        """Return how messages name this group of options."""
        return getattr(cls, "kind_name", None) or cls.__name__.removesuffix("Settings").lower()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and return the settings.

        Raises:
            ConfigError: naming the first option that is wrong, what was got and what was expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(error, cls.section()) from None


def _explain(error: ValidationError, section: str) -> ConfigError:
    """Turn pydantic's report into one line about the first option that is wrong."""
    found = error.errors(include_url=False)
    where = _option(found[0]["loc"])
    if found[0]["type"] == "missing":
        return ConfigError(f"missing key {where!r} in {section}")
    # an option of several types has one entry for each
    wanted = [
        entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        for entry in found
        if _option(entry["loc"]) == where
    ]
    return ConfigError(
        f"{where or 'options'} in {section} is not valid",
        got=repr(found[0]["input"]),
        expected=" or ".join(dict.fromkeys(wanted)),
    )


def _option(location: tuple[int | str, ...]) -> str:
    """Return the dotted name of an option, without pydantic's names of the types it may have."""
    parts = [str(part) for part in location]
    return ".".join(p for p in parts if not re.fullmatch(r"int|float|str|(list|literal)\[.*\]", p))


SettingsType = TypeVar("SettingsType", bound=Settings)


class Registry(Generic[SettingsType]):
    """Names of one kind of component and the settings class behind each.

    Args:
        axis: what is registered, in the singular, for messages: ``"source"``.
    """

    def __init__(self, axis: str) -> None:
        self.axis = axis
        self._classes: dict[str, type[SettingsType]] = {}

    def register(self, kind: str) -> Callable[[type[SettingsType]], type[SettingsType]]:
        """Return a class decorator that registers a settings class under `kind`."""

        def add(cls: type[SettingsType]) -> type[SettingsType]:
            if kind in self._classes:
                raise ValueError(f"{self.axis} {kind!r} is registered twice")
            cls.kind_name = f"{self.axis} {kind!r}"  # type: ignore[attr-defined]
            self._classes[kind] = cls
            return cls

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __getitem__(self, kind: str) -> type[SettingsType]:
        """Return the settings class of `kind`.

        Raises:
            ConfigError: with the nearest known name.
        """
        if kind not in self._classes:
            raise ConfigError(f"unknown {self.axis} {kind!r}", fix=nearest(kind, self._classes))
        return self._classes[kind]

    def kind_of(self, settings: SettingsType) -> str:
        """Return the name under which the class of `settings` is registered."""
        return next(k for k, cls in self._classes.items() if type(settings) is cls)

    def parse(self, values: Any) -> SettingsType:
        """Turn ``{"kind": K, option: value, ...}``, a bare ``K`` or settings into settings.

        Raises:
            ConfigError: if `kind` is missing or unknown, or an option is.
        """
        if any(isinstance(values, cls) for cls in self._classes.values()):
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
        options = {key: value for key, value in values.items() if key != "kind"}
        return self[values["kind"]].read(options)

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
