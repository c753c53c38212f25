"""Data sets that are one file: is it there, and what its lines say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpd.data.layouts.scanning import shown, unreadable
from hpd.data.listing import FileEntry
from hpd.disk.files import parse_json
from hpd.errors import DataError


def file_at(root: str | Path, kind: str) -> FileEntry:
    """Return a file that is a data set.

    Args:
        root: its path.
        kind: what kind of file it is, for messages: ``".npz"``.

    Raises:
        DataError: if it is not there, or is a folder.
    """
    path = Path(root).expanduser()
    if path.is_dir():
        fix = "Write data=FOLDER to have its kind found."
        raise DataError(f"{shown(path)} is a folder", expected=f"a {kind} file", fix=fix)
    try:
        return FileEntry.of(path)
    except FileNotFoundError:
        raise DataError(
            f"no such data file: {shown(path)}", fix=f"Set data.root to a {kind} file."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_text(path: Path) -> str:
    """Return a text file, with or without a mark of its encoding at the beginning.

    Raises:
        DataError: if it cannot be read, or is not UTF-8, naming the encoding it seems to have.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        got = "UTF-16" if wide else "another encoding, such as Latin-1"
        raise DataError(
            f"{shown(path)} is not text in UTF-8", got=got, fix="Save it as UTF-8."
        ) from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty; see `read_text`."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise DataError(f"{shown(path)} is not JSON", got=error) from None
