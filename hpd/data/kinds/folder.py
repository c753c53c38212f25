"""Any folder of images: one subfolder per class, with or without parts above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field, model_validator
from typing_extensions import Self

from hpd.data.classes import names_without, plain_name, shown_names
from hpd.data.kinds.imagenet import (
    Subset,
    different,
    imagenet_names,
    is_wnid,
    wnids_of,
)
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.layouts.imagenet_places import (
    find_imagenet,
    find_tiny_imagenet,
    tiny_imagenet_names,
)
from hpd.data.layouts.parts import check_same_classes, listing_of
from hpd.data.layouts.places import kind_of_file
from hpd.data.layouts.scanning import note_of, shown
from hpd.data.layouts.split_folders import Parts, find_parts, named_parts
from hpd.data.listing import FileEntry, Listing, Wanted
from hpd.data.pictures.reading import Pixels, read_picture
from hpd.data.registry import DATASETS
from hpd.errors import ConfigError, DataError

_LAYOUTS: tuple[Callable[[Path], Parts | None], ...] = (find_imagenet, find_tiny_imagenet)


@DATASETS.register("folder")
class FolderSettings(PictureSetSettings):
    """Images in ``root/train/<class>/**`` and ``root/test/<class>/**``, by these names or others.

    Without these two folders, ``root/<class>/**`` is split by class, at random but always alike.
    ImageNet in torchvision's layout and in Kaggle's, and Tiny-ImageNet, are read as downloaded.
    """

    root: str = Field(description="the folder")
    train: str | None = Field(
        None, description="folder of the training part, below root or not; null: by its name"
    )
    test: str | None = Field(None, description="folder of the test part, likewise")
    subset: Subset | None = Field(
        None, description="ten classes of ImageNet: nette, woof, meow, ...; null: see classes"
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.subset is not None and self.classes is not None:
            raise ConfigError(
                "data.subset and data.classes both say which classes are kept",
                got=f"subset {self.subset!r} and classes",
                fix="Give one of them.",
            )
        if self.test is not None and self.train is None:
            raise ConfigError(
                "data.test needs data.train",
                got=f"test {self.test!r} alone",
                fix="Say which folder is the training part, too; data.train=. for root itself.",
            )
        return self

    def listing(self) -> Listing:
        """Return what is in the folder; only folders of classes that are wanted are opened.

        Raises:
            DataError: naming the folder or file that is missing, or what is not understood.
        """
        root = self._root()
        parts = self._parts(root)
        names = _Names.of(root, list(parts.train.names))
        test = parts.test
        if test is not None and self.classes is None and self.subset is None:
            check_same_classes(parts.train.names, test.names, parts.train.where, test.where)
        chosen = self._chosen(names, parts)
        keys = [names.keys[i] for i in chosen]
        if test is not None:
            lacking = names_without(keys, test.names)
            if lacking:
                raise DataError(
                    f"{shown(test.where)} has no folder of class {shown_names(lacking)}"
                )
        pictures = [parts.train.pictures(key) for key in keys]
        tested = None if test is None else [test.pictures(key) for key in keys]
        passed_over = parts.train.passed_over + (test.passed_over if test else Counter())
        return listing_of(
            str(root),
            [names.shown[i] for i in chosen],
            pictures,
            tested,
            wanted=self.wanted,
            notes=[*parts.notes, *note_of(passed_over)],
        )

    def _root(self) -> Path:
        root = Path(self.root).expanduser()
        if root.is_dir():
            return root
        if root.is_file():
            kind = kind_of_file(root)
            raise DataError(
                f"no such data folder: {shown(root)} is a file",
                fix=f"Write data={shown(root)}, or {{kind: {kind}, root: {shown(root)}}}."
                if kind
                else "",
            )
        raise DataError(f"no such data folder: {shown(root)}", fix="Set data.root to your images.")

    def _parts(self, root: Path) -> Parts:
        if self.train is not None:
            return named_parts(root, self.train, self.test)
        found = (layout(root) for layout in _LAYOUTS)
        return next((parts for parts in found if parts is not None), None) or find_parts(root)

    def _chosen(self, names: _Names, parts: Parts) -> list[int]:
        if self.subset is None:
            return names.choose(self.wanted)
        wnids = wnids_of(self.subset)
        lacking = names_without(wnids, names.keys)
        if lacking:
            raise DataError(
                f"{shown(parts.train.where)} lacks {len(lacking)} classes of {self.subset!r}",
                got=shown_names(names.keys),
                expected=f"folders named by wnids: {shown_names(lacking)}",
                fix="Say by data.classes which classes are wanted.",
            )
        return [names.keys.index(wnid) for wnid in wnids]

    def _read_one(self, path: str | Path) -> Pixels:
        """Return one picture as it is in the data set, uint8 [H, W, C]."""
        return read_picture(FileEntry.of(path), self.picture_options)


@dataclass(frozen=True)
class _Names:
    """What classes are called: by their folders, and to the user.

    Args:
        keys: names of the folders, sorted.
        shown: names of the classes: those of the folders, or in words where these are wnids.
    """

    keys: list[str]
    shown: list[str]

    @classmethod
    def of(cls, root: Path, keys: list[str]) -> _Names:
        """Return the names of classes; those of ImageNet and Tiny-ImageNet in words."""
        if not all(is_wnid(key) for key in keys):
            return cls(keys, keys)
        words, known = tiny_imagenet_names(root, keys), imagenet_names()
        if words is None and all(key in known for key in keys):
            words = different([known[key] for key in keys], keys)
        return cls(keys, words or keys)

    def choose(self, wanted: Wanted) -> list[int]:
        """Return the indices of classes wanted by name, by folder or by index."""
        if wanted.classes is None or self.keys == self.shown:
            return wanted.choose(self.shown)
        words = dict(zip(self.keys, self.shown, strict=True))
        named = [words.get(plain_name(c), c) if isinstance(c, str) else c for c in wanted.classes]
        return replace(wanted, classes=named).choose(self.shown)
