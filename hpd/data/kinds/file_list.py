"""A list of picture files with their labels, in a csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from hpd.data.classes import plain_name, shown_names
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.layouts.files import file_at, read_text
from hpd.data.layouts.parts import Labelled, in_order, listing_of_labelled
from hpd.data.layouts.scanning import shown, stamped
from hpd.data.layouts.words import TRAIN_WORDS, by_preference, part_of
from hpd.data.listing import Listing
from hpd.data.registry import DATASETS
from hpd.errors import DataError

_PATHS = ("path", "file", "filename", "file_path", "image", "image_path", "filepath", "img")
_LABELS = ("label", "class", "target", "category", "class_name", "labels")
_PARTS = ("split", "part", "set", "subset", "partition")
_DELIMITERS = ",;\t"
_SNIFFED_CHARACTERS = 1 << 16


@DATASETS.register("csv")
class FileListSettings(PictureSetSettings):
    """A csv with a picture a line: columns ``path``, ``label`` and perhaps ``split``.

    Paths start at the folder of the csv. Without ``split``, or where no line is of a test part, a
    share of each class is kept for the test.
    """

    root: str = Field(description="the csv")
    path_column: str | None = Field(None, description="column of the paths; null: by its name")
    label_column: str | None = Field(None, description="column of the labels; null: by its name")
    part_column: str | None = Field(None, description="column of the parts; null: by its name")

    def listing(self) -> Listing:
        """Return what the csv names; see `PictureSetSettings.listing`."""
        path = Path(file_at(self.root, ".csv").name)
        header, rows = _table(path)
        given = (self.path_column, self.label_column, self.part_column)
        columns = _columns(path, header, given)
        lines = [_line(path, number, row, columns) for number, row in rows]
        used, notes = _used_parts(path, lines)
        names = in_order({line.label: None for line in lines})
        wanted = {names[i] for i in self.wanted.choose(names)} if len(names) > 1 else set(names)
        parts = {
            part: self._labelled(path, own, names)
            for part, own in (
                (part, [line for line in used if line.part == part and line.label in wanted])
                for part in ("train", "test")
            )
        }
        with_test = any(line.part == "test" for line in used)
        return listing_of_labelled(
            str(path), names, parts["train"], parts["test"] if with_test else None,
            wanted=self.wanted, notes=notes,
        )  # fmt: skip

    def _labelled(self, path: Path, lines: Sequence[_Line], names: Sequence[str]) -> Labelled:
        place = {name: i for i, name in enumerate(names)}
        folder = str(path.parent)
        # of 100,000 lines Paths take seconds
        files = [os.path.join(folder, os.path.expanduser(line.path)) for line in lines]  # noqa: PTH111, PTH118
        return Labelled(stamped(files, path), [place[line.label] for line in lines])


@dataclass(frozen=True)
class _Line:
    path: str
    label: str
    part: str
    word: str


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a csv, and its rows with their numbers."""
    text = read_text(path)
    head = text[:_SNIFFED_CHARACTERS].partition("\n")[0]
    # by its header, where all names are plain; paths and labels may hold any of these
    delimiter = max(_DELIMITERS, key=head.count)
    try:
        rows = list(enumerate(csv.reader(text.splitlines(), delimiter=delimiter, strict=True), 1))
    except csv.Error as error:
        raise DataError(f"{shown(path)} is not a csv", got=error) from None
    rows = [(number, row) for number, row in rows if any(value.strip() for value in row)]
    if len(rows) < 2:
        raise DataError(f"{shown(path)} names no pictures", got=f"{len(rows)} lines")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _columns(
    path: Path, header: Sequence[str], given: Sequence[str | None]
) -> tuple[int, int, int | None]:
    """Return the columns of path, label and part by their numbers."""
    found = []
    options = ("path_column", "label_column", "part_column")
    for option, own, known in zip(options, given, (_PATHS, _LABELS, _PARTS), strict=True):
        low = [name.lower() for name in header]
        if own is not None and own not in header:
            raise DataError(f"{shown(path)} has no column {own!r}", got=shown_names(header))
        place = header.index(own) if own else next((low.index(n) for n in known if n in low), None)
        if place is None and known is not _PARTS:
            raise DataError(
                f"{shown(path)} has no column that is known for the {option.split('_')[0]}",
                got=f"a first line {shown_names(header)}",
                expected=", ".join(known),
                fix=f"Say data.{option}=NAME, or write a first line with the names of columns.",
            )
        found.append(place)
    first, second, third = found
    assert first is not None and second is not None
    return first, second, third


def _line(
    path: Path, number: int, row: Sequence[str], columns: tuple[int, int, int | None]
) -> _Line:
    file, label, part = (
        None if c is None else row[c].strip() if c < len(row) else "" for c in columns
    )
    if not file or not label:
        raise DataError(
            f"line {number} of {shown(path)} has no {'label' if file else 'path'}", got=list(row)
        )
    word = TRAIN_WORDS[0] if part is None else part
    kind = part_of(word)
    if kind is None:
        raise DataError(
            f"line {number} of {shown(path)} is of an unknown part",
            got=repr(part),
            expected="train, test, val or the like",
            fix="Say data.part_column if another column has the parts.",
        )
    return _Line(file, plain_name(label), kind, word.lower())


def _used_parts(path: Path, lines: Sequence[_Line]) -> tuple[list[_Line], list[str]]:
    """Return the lines of the training part and of the preferred test part, and notes."""
    tests = by_preference({line.word for line in lines if line.part == "test"})
    if not any(line.part == "train" for line in lines):
        raise DataError(f"{shown(path)} has no line of a training part", got=shown_names(tests))
    used = [line for line in lines if line.part == "train" or line.word == tests[0]]
    notes = [
        f"lines of {word!r} are passed over: {tests[0]!r} is the test part" for word in tests[1:]
    ]
    return used, notes
