"""Files that are either there, whole, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

_ABOUT = "about"
_SUFFIX = ".part"
# of the temporary file in characters, of which one may take four of the 255 bytes of a name
_LONGEST_NAME = 50
_LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")
# what safetensors calls the types of numbers, in the order in which it writes them
_TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(_TYPES)}
_ALIGNED, _BLOCK_BYTES = 8, 2**22


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that no reader sees half of it.

    It may be read and written by whom the umask allows, as ordinary files.

    Raises:
        OSError: if it cannot be written; what was there before is still there.
    """
    _write_blocks(path, [content])


def _write_blocks(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write a file block by block; see `write_bytes`."""
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name[:_LONGEST_NAME]}.{secrets.token_hex(4)}{_SUFFIX}")
    # not by tempfile, whose files are private; asking for the umask would change it for all threads
    try:
        with temporary.open("xb") as file:
            for block in blocks:
                file.write(block)
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


class Blocks(Protocol):
    """A tensor that is not in memory, or not at once."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its numbers."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Of all of it."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """Yield its rows in order, some at a time."""
        ...


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | Blocks], about: Mapping[str, Any] | None = None
) -> str:
    """Write named tensors as safetensors; the same content gives the same bytes.

    They are written block by block, so that no tensor is in memory a second time.

    Args:
        path: the file.
        tensors: what to write.
        about: JSON to keep beside the tensors, read back by `read_about`.

    Returns:
        the SHA-256 of the file.

    Raises:
        TypeError: for a type of numbers that safetensors does not have.
        OSError: if it cannot be written; what was there before is still there.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for block in _serialised(tensors, about):
            digest.update(block)
            yield block

    _write_blocks(path, hashed())
    return digest.hexdigest()


def _serialised(
    tensors: Mapping[str, Tensor | Blocks], about: Mapping[str, Any] | None
) -> Iterator[bytes | memoryview]:
    """Yield what a file of safetensors holds: the length of its header, the header, the numbers.

    Source: the format as https://github.com/huggingface/safetensors describes it; wider types
    come first, then names decide.
    """
    unknown = [str(value.dtype) for value in tensors.values() if value.dtype not in _TYPES]
    if unknown:
        raise TypeError(f"safetensors has no {unknown[0]}")
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    # safetensors writes several metadata keys in random order, so there is only one
    header: dict[str, Any] = {}
    if about is not None:
        header["__metadata__"] = {_ABOUT: json.dumps(about, sort_keys=True)}
    end = 0
    for name in names:
        value, start = tensors[name], end
        end += value.shape.numel() * value.dtype.itemsize
        kind, shape = _TYPES[value.dtype], list(value.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    yield len(text).to_bytes(_ALIGNED, "little")
    yield text
    for name in names:
        value = tensors[name]
        for part in [value] if isinstance(value, Tensor) else value.blocks():
            yield from _bytes_of(part)


def _bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(flat), _BLOCK_BYTES):
        yield flat[start : start + _BLOCK_BYTES]


def read_about(metadata: Mapping[str, str] | None) -> Any:
    """Return what was given to `write_tensors` as `about`.

    Raises:
        KeyError: if nothing was.
    """
    return parse_json((metadata or {})[_ABOUT])
