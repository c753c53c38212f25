"""Checksums of numbers and of JSON, by which a file that was changed is told from one that was not.

They guard against accidents: a flipped bit, a file cut short, a file of another run. They are no
signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpd.disk.files import parse_json

_SEAL = "sha256"
_BLOCK_BYTES = 2**20


def digest_tensor(tensor: Tensor) -> str:
    """Return the SHA-256 of dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().flatten()
    digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_file(path: Path, size_bytes: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `size_bytes`."""
    digest, left = hashlib.sha256(), path.stat().st_size if size_bytes is None else size_bytes
    with path.open("rb") as file:
        while block := file.read(min(left, _BLOCK_BYTES)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def digest_json(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON, the same for tuples and lists and for any order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON with its checksum.

    >>> unsealed(sealed({"a": 1}))
    {'a': 1}
    """
    return {**content, _SEAL: digest_json(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises:
        ValueError: if it was changed since.
        KeyError: if it was never sealed.
    """
    rest = {key: value for key, value in content.items() if key != _SEAL}
    if content[_SEAL] != digest_json(rest):
        raise ValueError("it was changed after it was written")
    return rest


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file that was written with a checksum.

    Raises:
        ValueError: if it is no JSON, or was changed since.
        OSError: if it cannot be read.
    """
    try:
        return unsealed(parse_json(path.read_bytes()))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not as it was written ({type(error).__name__}: {error})") from None
