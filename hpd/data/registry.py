"""The registry of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from hpd.data.images import Dataset
from hpd.data.layouts.places import file_suffixes, kind_of_place
from hpd.data.layouts.scanning import shown
from hpd.errors import ConfigError, nearest
from hpd.registry import Registry, Settings


class DatasetSettings(Settings):
    """Options that every data set has."""

    classes: list[str | int] | None = Field(
        None, description="names or indices of the classes to keep, in this order; null for all"
    )

    def build(self) -> Dataset:
        """Read the data set.

        Raises:
            DataError: if it is missing or broken.
        """
        raise NotImplementedError


class DataRegistry(Registry[DatasetSettings]):
    """Data sets by name, or by the path of a file or folder that is one."""

    def parse(self, values: Any) -> DatasetSettings:
        """Turn a kind with options, a bare kind, or a path in its place into settings.

        Raises:
            ConfigError: if it is neither a kind nor a path, or an option is wrong.
            DataError: if a folder cannot be read.
        """
        if isinstance(values, Path):
            values = str(values)
        given = {"kind": values} if isinstance(values, str) else values
        kind = given.get("kind") if isinstance(given, Mapping) else None
        if not isinstance(kind, str) or kind in self:
            return super().parse(values)
        return super().parse(self._at_place(kind, given))

    def _at_place(self, place: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options whose kind is a path with the kind of data set that lies there."""
        kind = kind_of_place(place)
        if kind is None:
            there = Path(place).expanduser().exists()
            expected = f"a folder, or a file {', '.join(file_suffixes())}"
            raise ConfigError(
                f"unknown data set {shown(place)!r}",
                got="a file of another kind" if there else "no such file or folder either",
                expected=f"a name or {expected}" if there else None,
                fix=nearest(place, self),
            )
        if given.get("root") not in (None, place):
            raise ConfigError(
                "data lie at one place",
                got=f"{shown(place)!r} and root {shown(str(given['root']))!r}",
                fix=f"Write {{kind: {kind}, root: FOLDER}}, or the path alone.",
            )
        return {**given, "kind": kind, "root": place}


DATASETS = DataRegistry("data set")
