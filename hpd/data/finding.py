"""From what a user points at to the settings of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.data.kinds.torchvision_sets import TorchvisionSettings
from hpd.data.layouts.places import kind_of_place
from hpd.data.registry import DATASETS, DatasetSettings
from hpd.errors import ConfigError


def data_settings(where: str | Path | Mapping[str, Any] | None, **options: Any) -> DatasetSettings:
    """Return the settings of a data set.

    Args:
        where: a registered name, ``{"kind": name, option: value}``, that as YAML, or the path of a
            folder or file: of images, ``.npz``, ``.csv``, shards ``.tar``, ``.parquet``. A name
            wins over a folder of that name.
        options: more options of that data set.

    Raises:
        ConfigError: for an unknown name or option; a name that is no path either says both.
        DataError: if a folder cannot be read.
    """
    if where is None:
        raise ConfigError(
            "no data", expected="a name, a folder, a file, or a kind with options in YAML"
        )
    given = dict(where) if isinstance(where, Mapping) else {"kind": str(where)}
    return DATASETS.parse({**given, **options})


def at_place(settings: DatasetSettings, place: str | Path) -> DatasetSettings | None:
    """Return the same data set, with its options, at another place; None if no such one is there.

    Args:
        settings: of the data set.
        place: a path, or any other text.

    Raises:
        DataError: if a folder cannot be read.
    """
    kind = kind_of_place(place)
    if kind is None or "root" not in type(settings).model_fields:
        return None
    # what torchvision makes of a folder is for torchvision to say
    known = isinstance(settings, TorchvisionSettings) and Path(place).expanduser().is_dir()
    if known or kind == DATASETS.kind_of(settings):
        return settings.model_copy(update={"root": str(place)})
    return None
