"""Folders of pictures: a subfolder for each class, by its name or, as SRe2L has it, its number.

SRe2L and CDA name the folders ``new000``, ``new001``, ..., RDED ``00000``, ...
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpd.audits.layouts.label_batches import find_batches, read_batches
from hpd.audits.stored import Stored, Wanted, pictures_storage
from hpd.data.classes import plain_name
from hpd.data.kinds.imagenet import imagenet_names, is_wnid
from hpd.data.layouts.scanning import look_into, pictures_below, shown
from hpd.data.listing import Entry
from hpd.data.pictures.reading import PictureOptions, read_picture
from hpd.errors import DataError
from hpd.storage import Amount, Storage

_NUMBER = re.compile(r"(?:new|class|cls|c)?[_-]?(\d{1,6})")


def is_folder(path: Path) -> bool:
    """Return whether it is a folder with subfolders."""
    return path.is_dir() and bool(_class_folders(path))


def _class_folders(path: Path) -> list[str]:
    """Return the names of the subfolders that may be classes: not those of soft labels."""
    batches = find_batches(path)
    passed = set() if batches is None else {batches.name}
    return [n for n in look_into(path).folders if n not in passed and not n.startswith("epoch_")]


def read_folder(path: Path, wanted: Wanted) -> Stored:
    """Read pictures by class; beside them soft labels in batches, if there are any.

    Raises:
        DataError: if a folder has no pictures, or a picture is broken or of another size.
    """
    folders = _class_folders(path)
    passed_over: Counter[str] = Counter()
    own = [pictures_below(str(path / n), f"class {n!r}", passed_over) for n in folders]
    entries = [entry for some in own for entry in some]
    place = torch.tensor([i for i, some in enumerate(own) for _ in some])
    values = read_pictures(entries, wanted)
    labels, names, numbered = _meaning(folders, place, wanted)
    at = wanted.soft_labels or find_batches(path)
    batches = None if at is None else read_batches(at, len(values))
    storage = pictures_storage(values)
    if batches is not None:
        storage = Storage(storage.images, Amount(batches.floats, batches.bits))
    notes = tuple(f"passed over: {count} files {end}" for end, count in passed_over.items())
    return Stored(
        "sre2l" if numbered else "folder", (path,), values, labels, storage, names=names,
        convention=("bytes",), batches=batches, notes=notes,
    )  # fmt: skip


def _meaning(
    folders: Sequence[str], place: Tensor, wanted: Wanted
) -> tuple[Tensor, tuple[str, ...] | None, bool]:
    """Return labels, names of the classes or None for indices, and whether these are numbers."""
    names = [in_words(name) for name in folders]
    if {plain_name(n) for n in names} <= {plain_name(n) for n in wanted.classes}:
        return place, tuple(names), False
    matches = [_NUMBER.fullmatch(name) for name in folders]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) == len(folders) and len(set(numbers)) == len(numbers):
        return torch.tensor(numbers)[place], None, True
    return place, tuple(names), False


def in_words(name: str) -> str:
    """Return the name of a class of ImageNet for its wnid, any other name as it is."""
    return imagenet_names().get(name, name) if is_wnid(name) else name


def read_pictures(entries: Sequence[Entry], wanted: Wanted) -> Tensor:
    """Return pictures, uint8 [N, C, H, W].

    Raises:
        DataError: naming one that is broken, or of another size than the data.
    """
    channels, height, width = wanted.image_shape
    options = PictureOptions(channels=1 if channels == 1 else 3)
    images = []
    for entry in entries:
        pixels = read_picture(entry, options)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"a picture is of another size than the data: {shown(entry.name)}",
                got=f"{pixels.shape[1]}x{pixels.shape[0]}",
                expected=f"{width}x{height}",
                fix="Set data.resolution to that of the set.",
            )
        images.append(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1))
    return torch.stack(images)
