"""What a data set is before a picture of it is opened: parts, classes, and where pictures lie."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from hpd.data.classes import chosen_classes
from hpd.data.pictures.opening import open_picture

PartName = Literal["train", "test"]
PARTS: tuple[PartName, PartName] = ("train", "test")
NO_TEST = "no test part: a share of each class is kept for it"


class Entry(Protocol):
    """One picture that can be opened."""

    @property
    def name(self) -> str:
        """How messages name it: the path of a file, or a place in one."""
        ...

    @property
    def stamp(self) -> str:
        """What changes when the picture does: its name, size and time."""
        ...

    @property
    def size(self) -> int:
        """Bytes that it takes as it is stored."""
        ...

    def open(self) -> Image.Image:
        """Return the picture; its pixels may be read later.

        Raises:
            OSError: if there is no picture, or none that Pillow knows. Pillow raises SyntaxError,
                ValueError and others besides for some broken files.
        """
        ...


class FileEntry(NamedTuple):
    """A picture that is a file.

    Args:
        name: its path.
        size: of the file, in bytes.
        time: when it or what is known of it last changed, in nanoseconds.
    """

    name: str
    size: int
    time: int

    @classmethod
    def of(cls, path: str | Path) -> FileEntry:
        """Return a file that is there.

        Raises:
            OSError: if it is not.
        """
        return cls.known(str(path), Path(path).stat())

    @classmethod
    def known(cls, path: str, status: os.stat_result) -> FileEntry:
        """Return a file whose status is known."""
        # the second time changes, too, where a copy keeps the first of its original
        return cls(path, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))

    @property
    def stamp(self) -> str:
        """Path, size and time."""
        return f"{self.name}\0{self.size}\0{self.time}"

    def open(self) -> Image.Image:
        """Open the file; see `Entry.open`."""
        return open_picture(self.name)


class ArrayEntry(NamedTuple):
    """A picture that is a row of an array.

    Args:
        file: where the array comes from.
        pictures: [N, H, W] or [N, H, W, C].
        row: which one.
    """

    file: FileEntry
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    row: int

    @property
    def name(self) -> str:
        """File and row."""
        return f"{self.file.name}[{self.row}]"

    @property
    def stamp(self) -> str:
        """That of the file, and the row."""
        return f"{self.file.stamp}\0{self.row}"

    @property
    def size(self) -> int:
        """Bytes of the row."""
        return int(self.pictures[:1].nbytes)

    def open(self) -> Image.Image:
        """Return the row as a picture; see `Entry.open`."""
        row = self.pictures[self.row]
        return Image.fromarray(row[..., 0] if row.ndim == 3 and row.shape[2] == 1 else row)


@dataclass(frozen=True)
class Part:
    """The pictures of a part, ordered by class.

    Args:
        entries: the pictures [N].
        labels: class of each [N], ascending.
    """

    entries: Sequence[Entry]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Listing:
    """A data set that is understood and not yet read.

    Args:
        where: the folder or file that it was found in.
        classes: names, in the order of the labels, each in Unicode's composed form.
        train: pictures of the training part.
        test: pictures of the test part.
        notes: what a user should know of how the place was understood: ``"no test part: a share of
            each class is kept for it"``, ``"test/ has no labels and is passed over"``.
    """

    where: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.train) + len(self.test)


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a data set: which classes, and how it is parted.

    Args:
        classes: names or indices, in the order wanted; None: all.
        test_fraction: share of each class kept for the test, where the place has no test part.
    """

    classes: Sequence[str | int] | None = None
    test_fraction: float = 0.2

    def choose(self, names: Sequence[str]) -> list[int]:
        """Return the indices of the classes that are wanted, in their order.

        Raises:
            DataError: see `hpd.data.classes.chosen_classes`.
        """
        if self.classes is None:
            return list(range(len(names)))
        return chosen_classes(self.classes, names)


Report = Callable[[int, int], None]
"""Hears of (pictures read, pictures in all)."""


@contextmanager
def garbage_later() -> Iterator[None]:
    """Hold back the search for garbage while many thousand small objects are made that stay.

    Each such search goes through all that was imported, and takes longer than a thousand files.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
