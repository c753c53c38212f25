"""Which kind of data set a file or folder is."""

from __future__ import annotations

from pathlib import Path

from hpd.data.layouts.scanning import Found, look_into, suffix_of
from hpd.data.layouts.words import part_of
from hpd.disk.paths import path_of

_KINDS = {
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
    ".tar": "webdataset",
    ".parquet": "hugging_face",
}
_SAVED = ("dataset_dict.json", "state.json")


def kind_of_place(place: str | Path) -> str | None:
    """Return the kind of data set that a path leads to; None if nothing is there.

    Raises:
        DataError: if a folder cannot be read.
    """
    path = path_of(place)
    if path is None:
        return None
    if path.is_dir():
        return _kind_of_folder(path)
    if "{" in path.name and path.name.endswith(".tar") and path.parent.is_dir():
        return "webdataset"
    return kind_of_file(path) if path.is_file() else None


def kind_of_file(path: Path) -> str | None:
    """Return the kind of data set that a file holds, by its suffix; None if none does."""
    return _KINDS.get(suffix_of(path.name))


def file_suffixes() -> list[str]:
    """Return the suffixes of files that are data sets."""
    return list(_KINDS)


def _kind_of_folder(folder: Path) -> str:
    """Return the kind of a folder: shards, a saved data set, or folders of pictures."""
    if any((folder / name).is_file() for name in _SAVED):
        return "hugging_face"
    found = look_into(folder)
    inner = [folder / name for name in found.folders if part_of(name) or name == "data"]
    places = [found, *(look_into(path) for path in inner)]
    others = [name for name in found.folders if not (part_of(name) or name == "data")]
    if others or any(place.pictures for place in places):
        return "folder"
    if _holds(places, ".tar"):
        return "webdataset"
    return "hugging_face" if _holds(places, ".parquet") else "folder"


def _holds(places: list[Found], suffix: str) -> bool:
    return any(place.others[suffix] and not place.folders for place in places[1:]) or bool(
        places[0].others[suffix]
    )
