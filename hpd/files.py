"""Files that are either there, whole, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

_ABOUT = "about"
_SUFFIX = ".part"
# of the temporary file in characters, of which one may take four of the 255 bytes of a name
_LONGEST_NAME = 50
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that no reader sees half of it.

    It may be read and written by whom the umask allows, as ordinary files.

    Raises:
        OSError: if it cannot be written; what was there before is still there.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name[:_LONGEST_NAME]}.{secrets.token_hex(4)}{_SUFFIX}")
    # not by tempfile, whose files are private; asking for the umask would change it for all threads
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep_aside(path: Path) -> Path:
    """Copy a damaged file, once, to a name beside it that nothing has, and return that."""
    content = path.read_bytes()
    for number in itertools.count(1):
        aside = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
        if not aside.exists():
            write_bytes(aside, content)
        if aside.read_bytes() == content:
            return aside
    raise AssertionError


def is_leftover(name: str) -> bool:
    """Return whether a file's name is that of a temporary one of `write_bytes`."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete, in a folder and below, what processes left that were killed while they wrote."""
    for path in folder.rglob(f".*{_SUFFIX}"):
        if is_leftover(path.name):
            path.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: if it is none, and for what is nested too deep, of which the parser of the
            standard library says so by a `RecursionError`.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("values nested too deep") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> str:
    """Write named tensors as safetensors; the same content gives the same bytes.

    Args:
        path: the file.
        tensors: what to write.
        about: JSON to keep beside the tensors, read back by `read_about`.

    Returns:
        the SHA-256 of the file.
    """
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    # safetensors writes several metadata keys in random order, so there is only one
    metadata = None if about is None else {_ABOUT: json.dumps(about, sort_keys=True)}
    content = save(ready, metadata=metadata)
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_about(metadata: Mapping[str, str] | None) -> Any:
    """Return what was given to `write_tensors` as `about`.

    Raises:
        KeyError: if nothing was.
    """
    return parse_json((metadata or {})[_ABOUT])
