"""One way to name data: in every function and command, and again for a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpd.data import DATASETS
from hpd.data.finding import at_place, data_settings
from hpd.data.registry import DatasetSettings
from hpd.errors import ConfigError
from hpd.given import parse_options

Where = str | Path | Mapping[str, Any]
"""A name, the path of a folder or file, ``{"kind": name, option: value}``, or that as YAML."""


def split_data(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the overrides that are of the data, and the others.

    >>> split_data(["data.resolution=32", "seeds=3", "data=photos"])
    (['data.resolution=32', 'data=photos'], ['seeds=3'])
    """
    given = list(overrides)
    own = [text for text in given if text.partition("=")[0].partition(".")[0] == "data"]
    return own, [text for text in given if text not in own]


def data_from(where: Where | None, overrides: Iterable[str]) -> DatasetSettings:
    """Return the settings of data that are named anew.

    Args:
        where: the data; None: the overrides name them.
        overrides: ``"data=photos"``, ``"data.resolution=32"``, ...

    Raises:
        ConfigError: for an unknown name or option; if nothing names the data.
        DataError: if a folder cannot be read.
    """
    place, options = _options(where, overrides)
    return data_settings(place, **options)


def data_again(
    known: DatasetSettings, where: Where | None = None, overrides: Iterable[str] = ()
) -> DatasetSettings:
    """Return the settings of the data of a run as they are to be read now.

    Args:
        known: those of the run.
        where: where they lie now, or their kind: the options of the run stay; or other settings.
            None: as in the overrides, or else as they were.
        overrides: as of `data_from`; options are laid over those of the run.

    Raises:
        ConfigError: for an unknown name or option.
        DataError: if a folder cannot be read.
    """
    where, options = _options(where, overrides)
    found = known
    if isinstance(where, str | Path) and str(where) != DATASETS.kind_of(known):
        found = at_place(known, where) or data_settings(where)
    elif isinstance(where, Mapping):
        found = data_settings(where)
    return DATASETS.parse({**DATASETS.dump(found), **options}) if options else found


def _options(where: Where | None, overrides: Iterable[str]) -> tuple[Where | None, dict[str, Any]]:
    """Return where the data are, given as such or by overrides, and options.

    Raises:
        ConfigError: if they are named twice.
    """
    given = parse_options(list(overrides)).get("data")
    options = dict(given) if isinstance(given, Mapping) else {}
    place = options.pop("kind", None) if isinstance(given, Mapping) else given
    if None not in (where, place) and where != place:
        raise ConfigError("the data are named twice", got=f"{where} and {place}")
    return place if where is None else where, options
