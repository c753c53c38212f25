"""Data sets of Hugging Face: saved to disk, as Parquet files, or by name from the hub."""

from __future__ import annotations

import importlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import Field

from hpd.data.classes import shown_names
from hpd.data.kinds.picture_sets import PictureSetSettings
from hpd.data.layouts.parts import Labelled, in_order, listing_of_labelled
from hpd.data.layouts.scanning import is_passed_over, look_into, shown, stamped
from hpd.data.layouts.words import by_preference, part_of
from hpd.data.listing import Listing
from hpd.data.pictures.opening import open_picture
from hpd.data.registry import DATASETS
from hpd.errors import DataError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LABELS = ("label", "labels", "class", "fine_label", "target")


@DATASETS.register("hugging_face")
class HuggingFaceSettings(PictureSetSettings):
    """A saved data set, a folder of Parquet files, or a data set of the hub.

    Splits called train and test are the parts, or what `words` knows instead. No code of a data
    set runs. Needs the extra: ``pip install 'hpd[hugging-face]'``.
    """

    root: str = Field(description="folder, .parquet file, or name on the hub: org/name")
    image_column: str | None = Field(None, description="column of the images; null: by its type")
    label_column: str | None = Field(None, description="column of the labels; null: by its type")

    def listing(self) -> Listing:
        """Return what is in the set; see `PictureSetSettings.listing`."""
        library = _library()
        with _quietly(library):
            splits, head = _load(library, self.root)
            first = next(iter(splits.values()))
            image = _column(self.root, first, self.image_column, "image", library.Image, ("image",))
            kind = library.ClassLabel
            label = _column(self.root, first, self.label_column, "label", kind, _LABELS)
            train, tests, notes = _parts(self.root, splits)
            parts = {}
            for name in [*train, *tests]:
                values = splits[name].with_format(None)[label]
                if name in tests and _unlabelled(values):
                    notes.append(f"the split {name!r} is passed over: it has no labels")
                    continue
                if name in tests and any(other in parts for other in tests):
                    notes.append(f"the split {name!r} is passed over: another is the test part")
                    continue
                rows = splits[name].select_columns([image])
                rows = rows.cast_column(image, library.Image(decode=False)).with_format(None)
                size = rows.data.nbytes // len(rows)
                entries = [Row(head, name, rows, image, row, size) for row in range(len(rows))]
                parts[name] = (entries, list(values))
        names, both = _classes(self.root, first.features[label], parts)
        test = next((both[name] for name in tests if name in both), None)
        own = [both[name] for name in train]
        whole = Labelled(
            [e for part in own for e in part.entries], [c for part in own for c in part.labels]
        )
        return listing_of_labelled(self.root, names, whole, test, wanted=self.wanted, notes=notes)


class Row(NamedTuple):
    """A picture that is a row of a data set.

    Args:
        head: what changes when the data set does.
        split: its part.
        rows: the data set, whose pictures are not decoded.
        column: where pictures are.
        row: which one.
        size: bytes that a row takes, on average.
    """

    head: str
    split: str
    rows: Any
    column: str
    row: int
    size: int

    @property
    def name(self) -> str:
        """Split and row."""
        return f"{self.split}[{self.row}] of {self.head.partition(chr(0))[0]}"

    @property
    def stamp(self) -> str:
        """What the data set is, and which of its rows."""
        return f"{self.head}\0{self.split}\0{self.column}\0{self.row}"

    def open(self) -> Image.Image:
        """Open the bytes or the file of the row; see `hpd.data.listing.Entry.open`."""
        value = self.rows[self.row][self.column]
        if not isinstance(value, Mapping):
            raise OSError("there is no picture in this row")
        if value.get("bytes") is not None:
            return open_picture(io.BytesIO(value["bytes"]))
        if not value.get("path"):
            raise OSError("there is no picture in this row")
        return open_picture(value["path"])


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "data of Hugging Face need the library datasets, which cannot be imported",
            got=error,
            fix="Install it with: pip install 'hpd[hugging-face]'.",
        ) from None


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Keep the library from drawing bars and from saying errors twice, as long as a block runs."""
    drawn = library.are_progress_bars_disabled() is False
    said = library.utils.logging.get_verbosity()
    library.disable_progress_bars()
    library.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        library.utils.logging.set_verbosity(said)
        if drawn:
            library.enable_progress_bars()


def _load(library: Any, root: str) -> tuple[Mapping[str, Any], str]:
    """Return the splits of a data set by name, and what changes when it does."""
    path = Path(root).expanduser()
    if not path.exists() and not _HUB_NAME.fullmatch(root):
        raise DataError(
            f"no such data set: {shown(root)}", fix="Set data.root to a folder, a file or org/name."
        )
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = library.load_from_disk(str(path))
            files = sorted(str(file) for file in path.rglob("*.arrow"))
        elif path.exists():
            parquet = _parquet(path)
            files = sorted(file for own in parquet.values() for file in own)
            found = library.load_dataset("parquet", data_files=parquet)
        else:
            files = []
            found = _from_hub(library, root)
    except DataError:
        raise
    # the library raises what its readers do: pyarrow's, fsspec's and requests' errors among them
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        fetch = f"Without a network, fetch the Parquet files of {shown(root)} elsewhere"
        fix = "" if path.exists() else f"{fetch} and set data.root to their folder."
        raise DataError(f"cannot read the data set {shown(root)}", got=reason, fix=fix) from None
    splits = found if isinstance(found, library.DatasetDict) else {"": found}
    if not splits or not all(len(split) for split in splits.values()):
        raise DataError(
            f"the data set {shown(root)} has an empty split", got=shown_names(list(splits))
        )
    stamps = [entry.stamp for entry in stamped(files, root)]
    stamps = stamps or [split._fingerprint for split in splits.values()]
    return splits, "\0".join([root, *stamps])


def _from_hub(library: Any, name: str) -> Any:
    # later versions know no code of data sets, and no such option
    old = int(library.__version__.split(".")[0]) < 4
    return library.load_dataset(name, **({"trust_remote_code": False} if old else {}))


def _parquet(path: Path) -> dict[str, list[str]]:
    """Return the Parquet files of each split, by the names of files or of their folders."""
    if path.is_file():
        return {"train": [str(path)]}
    folders = [path, *(path / name for name in look_into(path).folders)]
    files = [
        file
        for folder in folders
        for file in sorted(folder.glob("*.parquet"))
        if not is_passed_over(file.name)
    ]
    if not files:
        raise DataError(
            f"{shown(path)} is no data set of Hugging Face",
            got=f"subfolders {shown_names(look_into(path).folders) or 'none'}",
            expected="what save_to_disk wrote, or .parquet files",
            fix="Set data.root to such a folder.",
        )
    splits: dict[str, list[str]] = {}
    for file in files:
        words = [file.parent.name, *re.split(r"[^A-Za-z]+", file.stem)]
        word = next((w.lower() for w in words[file.parent == path :] if part_of(w)), "train")
        splits.setdefault(word, []).append(str(file))
    return splits


def _parts(root: str, splits: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Return the training splits, the test splits by preference, and notes."""
    if list(splits) == [""]:
        return [""], [], []
    train = [name for name in splits if part_of(name) == "train"]
    tests = by_preference(name for name in splits if part_of(name) == "test")
    if not train:
        raise DataError(f"{shown(root)} has no training split", got=shown_names(list(splits)))
    others = [name for name in splits if part_of(name) is None]
    notes = [f"the split {name!r} is passed over: no part is called so" for name in others]
    return train, tests, notes


def _column(
    root: str, split: Any, given: str | None, what: str, kind: type, known: Sequence[str]
) -> str:
    """Return the column of images or labels: as said by hand, by its type, or by its name."""
    columns = list(split.features)
    if given is not None:
        if given not in columns:
            raise DataError(f"{shown(root)} has no column {given!r}", got=shown_names(columns))
        return given
    typed = [name for name in columns if isinstance(split.features[name], kind)]
    named = [name for name in known if name in columns]
    found = typed if len(typed) == 1 else [name for name in named if not typed or name in typed][:1]
    if not found:
        raise DataError(
            f"{shown(root)} has {'several columns' if typed else 'no column'} of {what}s",
            got=shown_names(typed or columns),
            fix=f"Say data.{what}_column=NAME.",
        )
    return found[0]


def _unlabelled(labels: Sequence[Any]) -> bool:
    return all(label is None or label == -1 for label in labels)


def _classes(
    root: str, feature: Any, parts: Mapping[str, tuple[list[Row], list[Any]]]
) -> tuple[list[str], dict[str, Labelled]]:
    """Return the names of the classes that occur, and the parts with indices into these."""
    values = {value for _, labels in parts.values() for value in labels}
    wrong = [v for v in values if not isinstance(v, (int, str)) or (isinstance(v, int) and v < 0)]
    if wrong or len({type(value) for value in values}) > 1:
        raise DataError(
            f"{shown(root)} has labels that are none",
            got=repr(wrong[0]) if wrong else "numbers and text",
            expected="one number from 0, or one name, an image",
        )
    told = getattr(feature, "names", None)
    numbers = sorted(value for value in values if isinstance(value, int))
    names = in_order([str(value) for value in values])
    place: dict[Any, int] = {value: i for i, value in enumerate(numbers or names)}
    if numbers and told:
        names, place = list(told), {number: number for number in range(len(told))}
    return names, {
        name: Labelled(entries, [place[label] for label in labels])
        for name, (entries, labels) in parts.items()
    }
