"""Where the pictures of each class lie: in a folder of its own, or where a file says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hpd.data.layouts.parts import unequal_names
from hpd.data.layouts.scanning import Found, look_into, pictures_below, stamped
from hpd.data.listing import FileEntry


class Shelf(Protocol):
    """A part of a data set in which the pictures of a class can be found by its name."""

    @property
    def where(self) -> str:
        """The folder, for messages."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes, sorted, in Unicode's composed form."""
        ...

    @property
    def passed_over(self) -> Counter[str]:
        """How many files of each suffix that is none of a picture were met with so far."""
        ...

    def pictures(self, name: str) -> list[FileEntry]:
        """Return the pictures of a class.

        Raises:
            DataError: if they cannot be listed, or there are none.
        """
        ...


@dataclass(frozen=True)
class ClassFolders:
    """A folder with a subfolder for each class.

    Args:
        where: the folder.
        folders: the subfolder of each class, by its name.
        passed_over: how many files of each suffix that is none of a picture were met with in the
            classes that were looked into.
    """

    where: str
    folders: Mapping[str, str]
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, folder: Path, found: Found | None = None) -> ClassFolders:
        """Return the classes of a folder; no class is looked into.

        Raises:
            DataError: if it cannot be read, or two names are equal.
        """
        names = (found or look_into(folder)).folders
        plain = unequal_names(names, str(folder))
        pairs = zip(plain, names, strict=True)
        return cls(str(folder), {name: str(folder / own) for name, own in sorted(pairs)})

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes."""
        return list(self.folders)

    def pictures(self, name: str) -> list[FileEntry]:
        """Return the pictures at any depth below the folder of a class; see `Shelf.pictures`."""
        return pictures_below(self.folders[name], f"class {name!r}", self.passed_over)


@dataclass(frozen=True)
class Annotated:
    """Pictures in one folder, with a file that says the class of each.

    Args:
        where: the folder.
        said_by: the file.
        files: paths of the pictures of each class.
    """

    where: str
    said_by: str
    files: Mapping[str, Sequence[str]]

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes."""
        return sorted(self.files)

    @property
    def passed_over(self) -> Counter[str]:
        """Nothing: the file names what is read."""
        return Counter()

    def pictures(self, name: str) -> list[FileEntry]:
        """Return the pictures of a class; see `Shelf.pictures`."""
        return stamped(sorted(self.files[name]), self.said_by)
