"""The registry of data sets."""

from __future__ import annotations

from pydantic import Field

from hpd.data.images import Dataset
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


DATASETS: Registry[DatasetSettings] = Registry("data set")
