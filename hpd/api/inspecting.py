"""What a data set is made of, before a run spends time on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpd.api.naming import data_from, split_data
from hpd.artifacts import DistilledSet
from hpd.artifacts.pictures import grid as draw_grid
from hpd.artifacts.pictures import png_bytes
from hpd.boundary import public
from hpd.data import DATASETS, Dataset, Normalisation
from hpd.data.finding import data_settings
from hpd.data.inspection import Inspection, inspect_images, inspect_listing
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.listing import Listing, Report
from hpd.data.pictures.looking import spaced
from hpd.data.pictures.reading import PictureOptions, read_picture
from hpd.data.store import is_kept, is_stored
from hpd.disk.files import write_bytes
from hpd.errors import ConfigError, DataError

_GRID_CLASSES, _GRID_PICTURES, _GRID_PIXELS = 20, 8, 96
_GRID_TRIES = 40

_Row = tuple[str, list[Tensor]]
"""A class and images of it, uint8 [C, H, W]."""


@public
def inspect_dataset(
    where: str | Path | Mapping[str, Any] | None = None,
    *overrides: str,
    sample: int | None = None,
    grid: str | Path | None = None,
    report: Report = lambda done, total: None,
    **options: Any,
) -> Inspection:
    """Look at a data set: classes, sizes, kinds, broken and equal pictures, and what it will take.

    Nothing is kept. Broken pictures and sizes that differ, which a run refuses, are told.

    Args:
        where: as for `load_dataset`; None: the overrides name it.
        overrides: ``"data.resolution=32"``, or ``"resolution=32"``.
        sample: how many pictures of each class and part are looked at; None: all.
        grid: a PNG to write, with 8 pictures of each of 20 classes as a run sees them.
        report: hears (pictures looked at, pictures in all).
        **options: options of that data set: ``classes``, ``resolution``, ...

    Raises:
        ConfigError: for an unknown name or option.
        DataError: if the place is missing or not understood.

    >>> inspect_dataset("digits").shape
    (1, 16, 16)
    """
    if sample is not None and sample < 1:
        raise ConfigError("sample is a number of pictures", got=sample, expected=">= 1")
    of_data, own = split_data(overrides)
    settings = data_from(where, [*of_data, *(f"data.{override}" for override in own)])
    if options:
        settings = data_settings({**DATASETS.dump(settings), **options})
    kind = DATASETS.kind_of(settings)
    if isinstance(settings, PictureSetSettings):
        listing, reading = settings.listing(), settings.picture_options
        about = inspect_listing(
            listing, reading, kind=kind, sample=sample, report=report,
            kept=is_kept(listing), stored=is_stored(listing, settings.identity),
        )  # fmt: skip
        rows = None if grid is None else _rows_of_pictures(listing, reading)
    else:
        dataset = settings.build()
        about = inspect_images(dataset, kind=kind)
        rows = None if grid is None else _rows_of_images(dataset)
    if grid is not None and rows is not None:
        _write_grid(rows, Path(grid).expanduser())
    return about


def _rows_of_pictures(listing: Listing, options: PictureOptions) -> list[_Row]:
    """Return whole pictures of some classes, of one size."""
    side = min(options.resolution or _GRID_PIXELS, _GRID_PIXELS)
    small, rows = replace(options, resolution=side), []
    by_class: dict[int, list[int]] = {}
    for i, label in enumerate(listing.train.labels):
        by_class.setdefault(label, []).append(i)
    for label in spaced(sorted(by_class), _GRID_CLASSES):
        images: list[Tensor] = []
        own = by_class[label]
        # those after the first eight stand in for broken ones
        for i in dict.fromkeys([*spaced(own, _GRID_PICTURES), *spaced(own, _GRID_TRIES)]):
            if len(images) < _GRID_PICTURES:
                try:
                    pixels = read_picture(listing.train.entries[i], small)
                except DataError:
                    continue
                images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        rows.append((listing.classes[label], images))
    return rows


def _rows_of_images(dataset: Dataset) -> list[_Row]:
    """Return images of some classes."""
    train = dataset.train
    return [
        (train.classes[label], list(train.pixels(train.by_class[label][:_GRID_PICTURES])))
        for label in spaced(range(train.num_classes), _GRID_CLASSES)
    ]


def _write_grid(rows: list[_Row], path: Path) -> None:
    images = [image for _, own in rows for image in own]
    if not images:
        raise DataError("there is no whole picture to draw")
    labels = [i for i, (_, own) in enumerate(rows) for _ in own]
    shown = DistilledSet(
        torch.stack(images).float() / 255, torch.tensor(labels), tuple(name for name, _ in rows),
        Normalisation((0.0,) * len(images[0]), (1.0,) * len(images[0])), stored_floats=0,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png_bytes(draw_grid(shown)))
