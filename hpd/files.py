"""Files that are either there, whole, or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

_ABOUT = "about"
_SUFFIX = ".part"
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that no reader sees half of it."""
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; ordinary ones follow the umask
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_leftover(name: str) -> bool:
    """Return whether a file's name is that of a temporary one of `write_bytes`."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete, in a folder and below, what processes left that were killed while they wrote."""
    for path in folder.rglob(f".*{_SUFFIX}"):
        if is_leftover(path.name):
            path.unlink(missing_ok=True)


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
    return json.loads((metadata or {})[_ABOUT])
