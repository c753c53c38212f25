"""ImageNet as Kaggle has it, and Tiny-ImageNet as it is downloaded."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpd.data.kinds.imagenet import different
from hpd.data.layouts.class_folders import Annotated, ClassFolders, Shelf
from hpd.data.layouts.files import read_lines
from hpd.data.layouts.scanning import look_into, shown
from hpd.data.layouts.split_folders import Parts, find_parts
from hpd.errors import DataError

_BELOW = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_SOLUTION = "LOC_val_solution.csv"
_ANNOTATIONS = "val_annotations.txt"


def find_imagenet(root: Path) -> Parts | None:
    """Return the parts of ImageNet in Kaggle's layout; None where there is something else.

    ``ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG``, ``.../val/*.JPEG`` and ``LOC_val_solution.csv``;
    `root` is any of these folders down to ``CLS-LOC``.

    Raises:
        DataError: if the file that says the classes of ``val`` is missing or broken.
    """
    place = next((p for b in _BELOW if (p := root / b).name == "CLS-LOC" and p.is_dir()), None)
    if place is None or not (place / "train").is_dir() or not (place / "val").is_dir():
        return None
    val = place / "val"
    if look_into(val).folders:
        return find_parts(place)
    # beside the folder ILSVRC, three levels up
    above = [place, *place.resolve().parents[:4]]
    solution = next((p for folder in above if (p := folder / _SOLUTION).is_file()), None)
    if solution is None:
        raise DataError(
            f"nothing says the classes of the pictures in {shown(val)}",
            expected=f"{_SOLUTION} beside the folder ILSVRC",
            fix="Put it there, or say data.train=train to keep a share of that for the test.",
        )
    files: dict[str, list[str]] = {}
    for image, wnid in _solution(solution):
        files.setdefault(wnid, []).append(f"{val / image}.JPEG")
    test = Annotated(str(val), str(solution), files)
    return Parts(ClassFolders.of(place / "train"), test)


def find_tiny_imagenet(root: Path) -> Parts | None:
    """Return the parts of Tiny-ImageNet as it is downloaded; None where there is something else.

    ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and ``val/val_annotations.txt``; the
    test part is not labelled.

    Raises:
        DataError: if the file that says the classes of ``val`` is broken.
    """
    annotations = root / "val" / _ANNOTATIONS
    if not (root / "wnids.txt").is_file() or not (root / "train").is_dir():
        return None
    if not annotations.is_file() or not (root / "val" / "images").is_dir():
        return find_parts(root)
    files: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(annotations), 1):
        image, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if not wnid:
            raise _bad_line(annotations, number, line)
        files.setdefault(wnid, []).append(str(root / "val" / "images" / image))
    test: Shelf = Annotated(str(root / "val"), str(annotations), files)
    notes = [f"{shown(root / 'test')} is passed over: it is not by class"]
    found = (root / "test").is_dir()
    return Parts(ClassFolders.of(root / "train"), test, tuple(notes if found else ()))


def tiny_imagenet_names(root: Path, wnids: Sequence[str]) -> list[str] | None:
    """Return the names of classes by ``words.txt``: the first word of each, made different.

    None where the folder has no such file, or the file lacks one of the classes.
    """
    words = root / "words.txt"
    if not (root / "wnids.txt").is_file() or not words.is_file():
        return None
    wanted, known = set(wnids), {}
    for line in read_lines(words):
        wnid, _, synonyms = line.partition("\t")
        if wnid in wanted:
            known[wnid] = synonyms.split(",")[0].strip()
    if not all(known.get(wnid) for wnid in wnids):
        return None
    return different([known[wnid] for wnid in wnids], wnids)


def _solution(path: Path) -> Iterable[tuple[str, str]]:
    """Yield the name of each picture and its wnid, by Kaggle's csv."""
    rows = list(csv.reader(read_lines(path)))
    for number, row in enumerate(rows[1:], 2):
        wnid = row[1].split(" ")[0] if len(row) > 1 else ""
        if not wnid:
            raise _bad_line(path, number, ",".join(row))
        # one picture may show several things, all of its class
        yield row[0], wnid


def _bad_line(path: Path, number: int, line: str) -> DataError:
    return DataError(f"line {number} of {shown(path)} names no class", got=repr(line[:60]))
