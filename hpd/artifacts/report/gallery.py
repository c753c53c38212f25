"""The images of a report, by class."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch
from torch import Tensor

from hpd.artifacts.distilled import DistilledSet
from hpd.artifacts.pictures import png_bytes, to_picture
from hpd.artifacts.report.nearest import Nearest, nearest_real
from hpd.data import ImageSet

# a PNG of noise takes up to 4 bytes a pixel and channel as base64, so some 8 MB at the most
_MOST_VALUES = 2_000_000
_MOST_TILES = 600
_MOST_PER_CLASS = 50


@dataclass(frozen=True)
class Tile:
    """One synthetic image.

    Args:
        number: its number in the class, from 0, as in the name of its file.
        source: the picture as a data URI.
        real: the nearest real image as a data URI, "" where it is not known.
        distance: to the nearest real image.
        real_index: index of the nearest real image in the training part.
    """

    number: int
    source: str
    real: str = ""
    distance: float = 0.0
    real_index: int = 0


@dataclass(frozen=True)
class ClassTiles:
    """The images of one class that are shown, and how many there are."""

    name: str
    count: int
    tiles: list[Tile]


@dataclass(frozen=True)
class Gallery:
    """The images of a report.

    Args:
        classes: those that are shown.
        left_out_classes: number of classes that are not.
        per_class: most images shown of a class.
        total: number of images of the set.
        height: of the images, in pixels.
        width: likewise.
        closest: smallest distance between an image that is shown and a real one; None where it
            is not known.
    """

    classes: list[ClassTiles]
    left_out_classes: int
    per_class: int
    total: int
    height: int
    width: int
    closest: float | None

    @property
    def shown(self) -> int:
        """Number of images that are shown."""
        return sum(len(own.tiles) for own in self.classes)


def gallery(distilled: DistilledSet, real: ImageSet | None) -> Gallery:
    """Choose and encode images: the first ones of each class, as many as keep the page small.

    Args:
        distilled: the set.
        real: the real training images, whose nearest are shown as well; None to leave them out.

    Raises:
        DataError: if the real images do not fit.
    """
    chosen, per_class = _choose(distilled, pictures_each=1 if real is None else 2)
    flat = torch.tensor([i for own in chosen for i in own])
    neighbours: list[Nearest | None]
    neighbours = [None] * len(flat) if real is None else [*nearest_real(distilled, flat, real)]
    by_index = dict(zip(flat.tolist(), neighbours, strict=True))
    pixels = distilled.uint8()
    classes = [
        ClassTiles(
            name=distilled.classes[label],
            count=len(distilled.by_class[label]),
            tiles=[_tile(n, pixels[i], by_index[i]) for n, i in enumerate(own)],
        )
        for label, own in enumerate(chosen)
    ]
    return Gallery(
        classes=classes,
        left_out_classes=len(distilled.classes) - len(classes),
        per_class=per_class,
        total=len(distilled),
        height=distilled.images.shape[2],
        width=distilled.images.shape[3],
        closest=min((n.distance for n in neighbours if n is not None), default=None),
    )


def _choose(distilled: DistilledSet, *, pictures_each: int) -> tuple[list[list[int]], int]:
    """Return the indices to show of each class to show, and the most of one class."""
    values = distilled.images[0].numel() * pictures_each
    most = max(1, min(_MOST_TILES, _MOST_VALUES // values))
    by_class = [own.tolist() for own in distilled.by_class[:most]]
    per_class = max(1, min(_MOST_PER_CLASS, most // max(1, len(by_class))))
    return [own[:per_class] for own in by_class], per_class


def _tile(number: int, pixels: Tensor, neighbour: Nearest | None) -> Tile:
    if neighbour is None:
        return Tile(number, data_uri(pixels))
    return Tile(
        number,
        data_uri(pixels),
        real=data_uri(neighbour.image),
        distance=neighbour.distance,
        real_index=neighbour.index,
    )


def data_uri(image: Tensor) -> str:
    """Return a uint8 image [C, H, W] as the data URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(to_picture(image))).decode()
