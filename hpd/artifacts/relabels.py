"""Soft labels that a finished run gets: two files that change at once, and codes in a third."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpd.artifacts.distilled import FILE_NAME
from hpd.disk.files import write_tensors
from hpd.disk.seals import digest_file, digest_json, digest_tensor
from hpd.typing import State

NEXT = "next"
"""In a manifest: what changes in it once the set is there whose hash stands here."""
# the rest of the name is of the content
_PREFIX = "label-codes-"


def write_label_codes(folder: Path, codes: State) -> str:
    """Write codes to a file of a run, and return its name, which is of what it holds."""
    content = digest_json({name: digest_tensor(value) for name, value in codes.items()})
    name = f"{_PREFIX}{content[:12]}.safetensors"
    write_tensors(folder / name, codes)
    return name


def has_label_codes(name: str) -> bool:
    """Return whether a file of a run is one of label codes, by its name."""
    return name.startswith(_PREFIX)


def settled(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of the set that is there, of two that `write_soft_labels` told of.

    Args:
        folder: of the run.
        manifest: what its manifest holds.
    """
    rest, path = dict(manifest), folder / FILE_NAME
    changed = rest.pop(NEXT, None)
    if changed is None or not path.is_file():
        return rest
    return {**rest, **changed} if digest_file(path) == changed["files"][FILE_NAME] else rest
