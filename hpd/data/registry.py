"""The registry of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hpd.data.images import Dataset
from hpd.data.layouts.places import file_suffixes, kind_of_place
from hpd.data.layouts.scanning import shown
from hpd.data.whitening import ZcaKind, whitened
from hpd.disk.paths import path_of
from hpd.disk.yaml_text import parse_value
from hpd.errors import ConfigError, nearest
from hpd.foreign import foreign_hint, unknown_is_kept
from hpd.registry import Registry, Settings


class DatasetSettings(Settings):
    """Options that every data set has."""

    classes: list[str | int] | None = Field(
        None, description="names or indices of the classes to keep, in this order; null for all"
    )
    zca: Literal["none"] | ZcaKind = Field(
        "none",
        description="whether students see images whose pixels are decorrelated: standardised, by"
        " channel; pixels, as they are, which MTT's code does; or per_image, of unit norm, as KIP"
        " and FRePo do",
    )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls.build = _whitening(vars(cls)["build"])  # type: ignore[assignment, method-assign]

    def build(self) -> Dataset:
        """Read the data set.

        Raises:
            DataError: if it is missing or broken.
        """
        raise NotImplementedError

    def count_classes(self) -> int | None:
        """Return how many classes it has, before any image is read; None where that is not known.

        Raises:
            DataError: if it is missing or not understood.
        """
        return None if self.classes is None else len(self.classes)


def _whitening(build: Callable[[Any], Dataset]) -> Callable[[Any], Dataset]:
    """Return a method `build` whose data sets are whitened where that is asked for."""

    @wraps(build)
    def wrapped(self: DatasetSettings) -> Dataset:
        dataset = build(self)
        return dataset if self.zca == "none" else whitened(dataset, self.zca)

    return wrapped


class DataRegistry(Registry[DatasetSettings]):
    """Data sets by name, or by the path of a file or folder that is one."""

    def parse(self, values: Any) -> DatasetSettings:
        """Turn a kind with options, a bare kind, or a path or YAML in its place into settings.

        Raises:
            ConfigError: if it is neither a kind nor a path, or an option is wrong.
            DataError: if a folder cannot be read.
        """
        if isinstance(values, Path):
            values = str(values)
        given = {"kind": values} if isinstance(values, str) else values
        kind = given.get("kind") if isinstance(given, Mapping) else None
        if isinstance(kind, str) and kind.lstrip().startswith("{"):
            written = parse_value(kind, "the data")
            if not isinstance(written, Mapping):
                raise ConfigError("the data are not valid", got=shown(kind), expected="a mapping")
            return self.parse({**written, **{k: v for k, v in given.items() if k != "kind"}})
        if not isinstance(kind, str) or kind in self:
            return super().parse(values)
        return super().parse(self._at_place(kind, given))

    def _at_place(self, place: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options whose kind is a path with the kind of data set that lies there."""
        kind = kind_of_place(place)
        if kind is None and unknown_is_kept():
            return dict(given)
        if kind is None:
            path = path_of(place)
            there = path is not None and path.exists()
            expected = f"a folder, or a file {', '.join(file_suffixes())}"
            raise ConfigError(
                f"unknown data set {shown(place)!r}",
                got="a file of another kind" if there else "no such file or folder either",
                expected=f"a name or {expected}" if there else None,
                fix=foreign_hint(f"data set {shown(place)!r}", nearest(place, self)),
            )
        if given.get("root") not in (None, place):
            raise ConfigError(
                "data lie at one place",
                got=f"{shown(place)!r} and root {shown(str(given['root']))!r}",
                fix=f"Write {{kind: {kind}, root: FOLDER}}, or the path alone.",
            )
        return {**given, "kind": kind, "root": place}


DATASETS = DataRegistry("data set", DatasetSettings)
