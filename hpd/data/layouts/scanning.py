"""What lies in a folder: subfolders and pictures, without what systems and editors leave there."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hpd.data.layouts.words import part_of
from hpd.data.listing import FileEntry
from hpd.data.pictures.opening import NOT_DECODED
from hpd.data.pictures.reading import shown_path
from hpd.errors import DataError

_PASSED_OVER = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "lost+found",
    "$recycle.bin", "system volume information", "@eadir", "icon\r",
}  # fmt: skip
# Pillow only knows these by their heads, or decodes them with the help of other programs
_NO_SUFFIX_OF = NOT_DECODED | {"IPTC"}
_USUAL = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "PNG", "JPG", "JPEG", "WEBP", "BMP"})
# what is written beside pictures about them, and is never meant as one
_BESIDE_PICTURES = {
    ".csv", ".htm", ".html", ".json", ".jsonl", ".log", ".md", ".sha1", ".sha256", ".tsv", ".txt",
    ".url", ".xml", ".xmp", ".yaml", ".yml",
}  # fmt: skip
_SHOWN = 10
# three paths, and what is said of them, are at most 600
_SHOWN_CHARACTERS = 120


@dataclass
class Found:
    """What lies in one folder, not below it.

    Args:
        folders: names of its subfolders, sorted; links that lead nowhere are among them where
            they have no suffix.
        pictures: names of the files whose suffix is that of a picture.
        others: how many files there are of each other suffix.
    """

    folders: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that Pillow decodes, in small letters, with their dots."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    decoded = set(Image.OPEN) - _NO_SUFFIX_OF
    return frozenset(suffix.lower() for suffix, kind in known if kind in decoded)


def is_picture_suffix(suffix: str) -> bool:
    """Return whether files of a suffix, in small letters and with its dot, are pictures."""
    # Pillow imports all that it knows to tell, which a set of PNGs should not wait for
    return suffix[1:] in _USUAL or (len(suffix) > 1 and suffix in picture_suffixes())


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left there by a system."""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in small letters, with its dot; "" if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - of 100,000 names a Path takes seconds


def look_into(folder: str | Path) -> Found:
    """Return what lies in a folder.

    Raises:
        DataError: if it cannot be read.
    """
    found = Found()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if is_passed_over(name):
                    continue
                suffix = suffix_of(name)
                if entry.is_dir() or (not suffix and entry.is_symlink()):
                    found.folders.append(name)
                elif is_picture_suffix(suffix):
                    found.pictures.append(name)
                else:
                    found.others[suffix or "no suffix"] += 1
    except OSError as error:
        raise unreadable(folder, error) from None
    found.folders.sort()
    found.pictures.sort()
    return found


def pictures_below(
    folder: str, what: str = "", passed_over: Counter[str] | None = None
) -> list[FileEntry]:
    """Return the pictures at any depth below a folder, ordered by path.

    Links are followed. A folder that several lead to counts once.

    Args:
        folder: where to look.
        what: how the message says that there is none: ``"class 'cat'"``.
        passed_over: to it is added how many files there are of each suffix that is none of a
            picture.

    Raises:
        DataError: naming the folder or link that cannot be read, if there is no picture, or if
            the folder has parts of its own.
    """
    pictures: list[FileEntry] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        below = waiting.pop()
        try:
            status = Path(below).stat()
            place = (status.st_dev, status.st_ino)
            if place not in seen:
                seen.add(place)
                inner = _scan(below, pictures, others)
                if below == folder:
                    _refuse_parts(folder, inner)
                waiting += inner
        except OSError as error:
            raise unreadable(below, error) from None
    if not pictures:
        raise _no_pictures(folder, what, others)
    if passed_over is not None:
        passed_over.update(others)
    pictures.sort()
    return pictures


def _scan(folder: str, pictures: list[FileEntry], others: Counter[str]) -> list[str]:
    """Add the pictures in a folder to a list and return its subfolders, the last one first."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir():
                if not is_passed_over(name):
                    below.append(entry.path)
                continue
            _, dot, tail = name.rpartition(".")
            is_picture = dot and (tail in _USUAL or is_picture_suffix(f".{tail.lower()}"))
            if not is_picture and (dot or not entry.is_symlink()):
                if not is_passed_over(name):
                    others[f".{tail.lower()}" if dot else "no suffix"] += 1
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                raise DataError(
                    f"a link leads nowhere: {shown(entry.path)}",
                    fix="Remove it, or bring back its file.",
                ) from None
            if is_picture and stat.S_ISREG(status.st_mode):
                pictures.append(FileEntry.known(entry.path, status))
    # a folder counts under the first of the paths that lead to it
    return sorted(below, reverse=True)


def _refuse_parts(folder: str, below: Sequence[str]) -> None:
    """Check that a class is not itself parted: its test pictures would be trained on."""
    if {"train", "test"} <= {part_of(Path(path).name) for path in below}:
        raise DataError(
            f"the class {shown(folder)} has a training and a test part of its own",
            expected="the parts above the classes: train/cat, test/cat",
            fix="Move them, or list the files with their parts in a csv: {kind: csv, root: FILE}.",
        )


def shown(place: str | Path) -> str:
    """Return a path as messages show it: on one line, and its end if it is long."""
    text = shown_path(str(place))
    return text if len(text) <= _SHOWN_CHARACTERS else f"...{text[3 - _SHOWN_CHARACTERS :]}"


def unreadable(place: str | Path, error: OSError) -> DataError:
    """Return the error about a file or folder that cannot be read, or that a link misses."""
    if Path(place).is_symlink() and isinstance(error, FileNotFoundError):
        return DataError(
            f"a link leads nowhere: {shown(place)}", fix="Remove it, or bring back its file."
        )
    return DataError(f"cannot read {shown(place)}", got=error.strerror or error)


def stamped(paths: Sequence[str], said_by: str | Path) -> list[FileEntry]:
    """Return files by their paths.

    Args:
        paths: of the files.
        said_by: the file or folder that names them, for messages.

    Raises:
        DataError: naming the first ones that are missing.
    """
    entries, missing = [], []
    for path in paths:
        try:
            entries.append(FileEntry.known(path, os.stat(path)))  # noqa: PTH116 - of 100,000, as above
        # ValueError: a name with a NUL in it
        except (OSError, ValueError):
            missing.append(path)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        first = ", ".join(_shortened(path) for path in missing[:_SHOWN])
        raise DataError(
            f"pictures that {shown(said_by)} names are missing", got=f"none at {first}{more}"
        )
    return entries


def _shortened(path: str) -> str:
    path = shown_path(path)
    return path if len(path) <= 40 else f"...{path[-37:]}"


def _no_pictures(folder: str, what: str, others: Counter[str]) -> DataError:
    got = f"files of {shown_suffixes(others)}" if others else "no files"
    return DataError(
        f"no images in {shown(folder)}" + (f", {what}" if what else ""),
        got=got,
        expected="files that Pillow reads: .png, .jpg, ...",
        fix="Remove the folder, or say by data.classes which classes are wanted." if what else "",
    )


def note_of(passed_over: Counter[str]) -> list[str]:
    """Return a note on files in the folders of classes that are not read, if any may be meant to.

    Texts about the pictures are not.

    >>> note_of(Counter({".heic": 2, ".txt": 7}))
    ['2 files are passed over, by their suffixes no pictures that are read: .heic (2)']
    """
    meant = Counter({k: n for k, n in passed_over.items() if k not in _BESIDE_PICTURES})
    if not meant:
        return []
    files = "1 file is" if meant.total() == 1 else f"{meant.total()} files are"
    whose = (
        "its suffix no picture that is"
        if meant.total() == 1
        else ("their suffixes no pictures that are")
    )
    return [f"{files} passed over, by {whose} read: {shown_suffixes(meant)}"]


def shown_suffixes(suffixes: Counter[str]) -> str:
    """Return the most frequent suffixes and how often they are there.

    >>> shown_suffixes(Counter({".txt": 3, ".npy": 1}))
    '.txt (3), .npy (1)'
    """
    return ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common(5))
