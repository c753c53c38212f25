"""Which folder is the training part, and which the test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpd.data.classes import shown_names
from hpd.data.layouts.class_folders import ClassFolders, Shelf
from hpd.data.layouts.scanning import Found, look_into, shown, shown_suffixes
from hpd.data.layouts.words import by_preference, part_of
from hpd.data.listing import NO_TEST
from hpd.errors import DataError

_BY_HAND = "data.train=FOLDER and data.test=FOLDER"
_AS_CSV = "list the files with their classes in a csv: {kind: csv, root: FILE}"


@dataclass(frozen=True)
class Parts:
    """Both parts of a data set.

    Args:
        train: the training part.
        test: the test part; None: a share of the training part is kept for it.
        notes: what the user should know of how the place was understood.
    """

    train: Shelf
    test: Shelf | None
    notes: tuple[str, ...] = ()


def find_parts(root: Path) -> Parts:
    """Return the parts of a folder: split folders with classes in them, or classes.

    Raises:
        DataError: if neither is there, saying what is and how to say it by hand.
    """
    found = look_into(root)
    words = {name: part_of(name) for name in found.folders}
    train = [name for name, part in words.items() if part == "train"]
    test = by_preference(name for name, part in words.items() if part == "test")
    if not train and not test:
        return Parts(_classes(root, found), None, (NO_TEST, *_strays(found, "root")))
    if len(train) != 1:
        what = "two training parts" if train else "a test part and no training part"
        raise DataError(
            f"{shown(root)} has {what}",
            got=shown_names(train or found.folders),
            fix=f"Say {_BY_HAND}; data.train=. if all of these are classes.",
        )
    others = [name for name, part in words.items() if part is None]
    return _split(root, train[0], test, others)


def named_parts(root: Path, train: str, test: str | None) -> Parts:
    """Return the parts that are said by hand.

    Args:
        root: where relative paths start.
        train: folder of the training part.
        test: that of the test part; None: a share of the training part is kept for it.

    Raises:
        DataError: if one is not there or not by class.
    """
    folders = {
        key: root / Path(given).expanduser()
        for key, given in (("train", train), ("test", test))
        if given is not None
    }
    for key, folder in folders.items():
        if not folder.is_dir():
            raise DataError(
                f"no such data folder: {shown(folder)}", fix=f"Set data.{key} to a folder."
            )
    shelves = {key: _classes(folder, look_into(folder)) for key, folder in folders.items()}
    own_test = shelves.get("test")
    return Parts(shelves["train"], own_test, () if own_test else (NO_TEST,))


def _split(root: Path, name: str, tests: Sequence[str], others: Sequence[str]) -> Parts:
    """Return the parts of a root with a folder for the training part and perhaps others."""
    train = root / name
    found = look_into(train)
    if not found.folders and others:
        # a class may be called `train`; so may a part beside other folders, and be flat
        raise DataError(
            f"{shown(train)} has no folder for each class",
            got=f"{len(found.pictures)} pictures in it; beside it {shown_names([*tests, *others])}",
            fix=f"Say data.train=. if all of these are classes, else {_AS_CSV}.",
        )
    shelf = _classes(train, found)
    notes = [f"{shown(root / other)} is passed over: no part is called so" for other in others]
    notes += _strays(found, name)
    kept, unlabelled = None, []
    for test in tests:
        if kept is not None:
            notes.append(
                f"{shown(root / test)} is passed over: {shown(kept.where)} is the test part"
            )
        elif _is_by_class(root / test, shelf):
            kept = ClassFolders.of(root / test)
        else:
            unlabelled.append(root / test)
            notes.append(f"{shown(root / test)} is passed over: it is not by class")
    if kept is None and unlabelled:
        raise _not_by_class(train, unlabelled)
    return Parts(shelf, kept, tuple(notes if kept else [*notes, NO_TEST]))


def _is_by_class(folder: Path, train: Shelf) -> bool:
    """Return whether a folder of the test part has classes: one of `train`, or several others."""
    shelf = ClassFolders.of(folder)
    return len(shelf.names) > 1 or any(name in train.names for name in shelf.names)


def _not_by_class(train: Path, tests: Sequence[Path]) -> DataError:
    found = look_into(tests[0])
    inside = f"{len(found.pictures)} pictures, subfolders {shown_names(found.folders) or 'none'}"
    return DataError(
        f"the test part {shown(tests[0])} is not by class",
        got=inside,
        expected=f"the subfolders of {shown(train)}",
        fix=f"Say data.train={train.name} to keep a share of that for the test, or {_AS_CSV}.",
    )


def _classes(folder: Path, found: Found) -> ClassFolders:
    """Return the classes of a folder.

    Raises:
        DataError: if there are not two, saying what is there instead.
    """
    if len(found.folders) >= 2:
        return ClassFolders.of(folder, found)
    if len(found.folders) == 1:
        inner = folder / found.folders[0]
        below = look_into(inner)
        wraps = len(below.folders) >= 2 or any(part_of(name) for name in below.folders)
        raise DataError(
            f"{shown(folder)} needs a subfolder per class",
            got=f"1 subfolder, {found.folders[0]!r}",
            expected=">= 2",
            fix=f"Set data.root={shown(inner)}, which holds {shown_names(below.folders)}."
            if wraps
            else "",
        )
    if found.pictures:
        raise DataError(
            f"{shown(folder)} needs a subfolder per class",
            got=f"{len(found.pictures)} pictures in it, such as {found.pictures[0]!r}",
            fix=f"Put each class into its folder, or {_AS_CSV}.",
        )
    raise DataError(
        f"{shown(folder)} needs a subfolder per class",
        got=f"0 subfolders, {shown_suffixes(found.others) or 'no files'}",
        expected=">= 2",
        fix=_fix_of_files(folder, found),
    )


def _fix_of_files(folder: Path, found: Found) -> str:
    """Return how to read files that are no pictures, where there is a kind for them."""
    kinds = {".npz": "npz", ".csv": "csv", ".tsv": "csv", ".parquet": "hugging_face"}
    if found.others[".tar"]:
        return f"Of shards, write {{kind: webdataset, root: {shown(folder)}}}."
    fits = [suffix for suffix in kinds if found.others[suffix]]
    return f"Of a {fits[0]}, write data=FILE{fits[0]}." if fits else ""


def _strays(found: Found, where: str) -> list[str]:
    count = len(found.pictures)
    return [f"{count} pictures in {where} itself are of no class and passed over"] if count else []
