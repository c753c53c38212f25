"""Options of every data set that is made of pictures, wherever they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from hpd.data.images import Dataset
from hpd.data.listing import Listing, Wanted, garbage_later
from hpd.data.pictures.reading import PictureOptions
from hpd.data.registry import DatasetSettings
from hpd.data.store import read_listing


class PictureSetSettings(DatasetSettings):
    """Options of a data set of pictures: how they are turned into images of one size."""

    resolution: int | None = Field(
        None, ge=4, description="resize the shorter side and crop the centre; null: as stored"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")
    ground: str = Field(
        "white", description="colour under what is transparent: a name, or '#rrggbb'"
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of each class kept for the test, where there is no test"
    )

    @field_validator("ground")
    @classmethod
    def _is_a_colour(cls, ground: str) -> str:
        from PIL import ImageColor

        ImageColor.getrgb(ground)
        return ground

    def listing(self) -> Listing:
        """Return what the data set is made of; no picture is opened.

        Raises:
            DataError: if it is missing, or not understood, saying what was found.
        """
        raise NotImplementedError

    def count_classes(self) -> int:
        """Return how many classes it has; no picture is opened."""
        known = super().count_classes()
        if known is not None:
            return known
        with garbage_later():
            return len(self.listing().classes)

    @property
    def wanted(self) -> Wanted:
        """Classes and parts that are wanted."""
        return Wanted(self.classes, self.test_fraction)

    @property
    def picture_options(self) -> PictureOptions:
        """What pictures are turned into."""
        return PictureOptions(self.channels, self.resolution, self.ground)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the images besides the pictures: the place, and every option of reading."""
        options = self.model_dump(mode="json", exclude={"classes", "subset", "root"})
        return {**options, "kind": type(self).__name__, "root": self.place}

    @property
    def place(self) -> str:
        """Where the pictures are, one name for each place."""
        root = Path(str(getattr(self, "root", ""))).expanduser()
        return os.path.realpath(root)

    def build(self) -> Dataset:
        """Read the pictures, or what was made of them before; see `hpd.data.store`.

        Raises:
            DataError: if the set is missing or not understood, or pictures are broken, naming them.
        """
        with garbage_later():
            listing = self.listing()
        return read_listing(listing, self.picture_options, self.identity)
