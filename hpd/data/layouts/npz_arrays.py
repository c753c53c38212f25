"""The arrays of an ``.npz`` file, as data: what a file claims is compared with what it holds."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpd.data.layouts.scanning import shown
from hpd.errors import DataError

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

# bytes, and how many times smaller an honest array of that size may be in the file
_LARGE, _DENSEST = 2**28, 200
_UNCOMPRESSED = "Save it by numpy.savez, which does not compress."


def load_arrays(path: str | Path, known: Collection[str] | None = None) -> dict[str, Array]:
    """Return the arrays of a file; objects in it, which are code to run, are refused.

    Args:
        path: the file.
        known: names of the arrays to read; others are there, and empty. None: all of them.

    Raises:
        DataError: if it is no such file or damaged, or an array claims to be larger than it is.
    """
    arrays: dict[str, Array] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{shown(path)} is not a .npz", got="a single array")
            if file.zip is not None:
                _check_sizes(path, file.zip)
            for name in file.files:
                value = file[name] if known is None or name in known else np.empty(0)
                if not isinstance(value, np.ndarray):
                    raise ValueError("no array, but a file of another kind")
                arrays[name] = value
    except DataError:
        raise
    # the readers of zips and headers end in whatever the bytes of a broken file lead to
    except Exception as error:
        raise _unreadable(path, name, error) from None
    return arrays


def shapes_of(path: str | Path) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each array by its name; none of them is read.

    Raises:
        DataError: if it is no such file, or an array claims to be larger than it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _check_sizes(path, archive)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, "", error) from None


def _unreadable(path: str | Path, name: str, error: Exception) -> DataError:
    at = f", array {name!r}" if name else ""
    fix = "Objects are refused: save plain arrays." if "pickle" in str(error) else ""
    return DataError(f"cannot read {shown(path)}{at}", got=str(error)[:200], fix=fix)


def _check_sizes(path: str | Path, archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Refuse what unpacks to far more than it is, and headers that claim more than there is."""
    size, shapes = Path(path).stat().st_size, {}
    for member in archive.infolist():
        claimed = f"{member.filename[:50]!a}: {member.file_size:,} bytes"
        if member.file_size > _LARGE and member.file_size > _DENSEST * member.compress_size:
            raise DataError(
                f"{shown(path)} holds an array that unpacks to far more than it is",
                got=f"{claimed} from {member.compress_size:,}",
                fix=_UNCOMPRESSED,
            )
        if member.compress_size > size:
            raise DataError(
                f"{shown(path)} is cut short, or claims more than it holds",
                got=f"{member.filename[:50]!a}: {member.compress_size:,} bytes",
                expected=f"less than the {size:,} bytes of the file",
            )
        if member.filename.endswith(".npy"):
            name = member.filename.removesuffix(".npy")
            try:
                shape, needed = _header(archive, member)
            except Exception as error:
                raise _unreadable(path, name, error) from None
            if needed > member.file_size:
                raise DataError(
                    f"{shown(path)} holds an array that claims to be larger than it is",
                    got=f"{claimed} for {needed:,}",
                    fix="Save it again.",
                )
            shapes[name] = shape
    return shapes


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], int]:
    """Return the shape that an array claims to have, and the bytes that its values would take."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"an array of version {version}")
    if any(side < 0 for side in shape):
        raise ValueError("an array of a negative size")
    # objects, and text of no length, are for who reads it
    return shape, math.prod(shape) * dtype.itemsize * (not dtype.hasobject)
