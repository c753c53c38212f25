"""Tensors whose rows lie in several files, one of each process that wrote them.

A file names those of its tensors that are shared out, and has the place of each of their rows in
the whole. So the whole, or any rows of it, are had again from the files alone, whoever wrote them,
and no more of them is in memory than what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hpd.disk.files import read_about, write_tensors
from hpd.typing import State

_PLACES = "places."
_BLOCK_ROWS_BYTES = 2**24


def write_shard(path: Path, tensors: State, places: Mapping[str, Tensor]) -> str:
    """Write what one process has of some tensors, and return the SHA-256 of the file.

    Args:
        path: the file.
        tensors: by name.
        places: place in the whole of each row of those that are shared out [rows], int64; nothing
            where this process has all there is.

    Raises:
        OSError: if it cannot be written.
    """
    kinds: list[Tensor] = []
    rows = {}
    for name in sorted(places):
        own = places[name].cpu()
        number = next((i for i, kind in enumerate(kinds) if torch.equal(kind, own)), len(kinds))
        kinds += [own] if number == len(kinds) else []
        rows[name] = number
    added = {f"{_PLACES}{number}": kind for number, kind in enumerate(kinds)}
    return write_tensors(path, {**tensors, **added}, {"rows": rows} if rows else None)


class StoredTensor:
    """A tensor in files, which is read where it is asked for.

    Args:
        name: in the files.
        like: a part of it without rows, or a tensor of one number.
        paths: the files that have rows of it.
        places: place of each row of each file in the whole; one number: one file has as many rows,
            in order; None: it has none, and one file has it.
    """

    def __init__(
        self, name: str, like: Tensor, paths: Sequence[Path], places: Sequence[Tensor] | int | None
    ) -> None:
        self._name, self._paths, self._places = name, paths, places
        self.dtype, self.shape = like.dtype, like.shape
        if places is not None:
            count = places if isinstance(places, int) else sum(map(len, places))
            self.shape = torch.Size((count, *like.shape[1:]))

    def rows(self, places: Tensor | None = None) -> Tensor:
        """Return rows by their places in the whole [n], int64, in this order; None: all of it."""
        if self._places is None:
            with safe_open(self._paths[0], framework="pt") as file:
                return _tensor(file.get_tensor(self._name))
        if places is None:
            places = torch.arange(self.shape[0])
        found = torch.empty(len(places), *self.shape[1:], dtype=self.dtype)
        for number, path in enumerate(self._paths):
            with safe_open(path, framework="pt") as file:
                kept = file.get_slice(self._name)
                for where, first, count in self._runs(places.cpu(), number):
                    found[where : where + count] = kept[first : first + count]
        return found

    def _runs(self, places: Tensor, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield where rows of one file go that lie side by side: place in the result and in it."""
        if not isinstance(self._places, Sequence):
            wanted, there = torch.arange(len(places)), places
        else:
            own = torch.full((self.shape[0],), -1)
            own[self._places[number]] = torch.arange(len(self._places[number]))
            there = own[places]
            wanted = (there >= 0).nonzero().flatten()
            there = there[wanted]
        start = 0
        pairs = list(zip(wanted.tolist(), there.tolist(), strict=True))
        for end in range(1, len(pairs) + 1):
            last = pairs[end - 1]
            if end < len(pairs) and pairs[end] == (last[0] + 1, last[1] + 1):
                continue
            yield *pairs[start], end - start
            start = end

    def blocks(self) -> Iterator[Tensor]:
        """Yield all rows in order, some at a time; see `hpd.disk.files.Blocks`."""
        if not self.shape:
            yield self.rows()
            return
        row_bytes = max(self.shape[1:].numel() * self.dtype.itemsize, 1)
        at_once = max(_BLOCK_ROWS_BYTES // row_bytes, 1)
        for part in torch.arange(self.shape[0]).split(at_once):
            yield self.rows(part)


Kept = Tensor | StoredTensor
"""A tensor in memory or in files."""


def rows_of_kept(kept: Kept, places: Tensor | None) -> Tensor:
    """Return some rows of a tensor by their places, or all of it, wherever it is."""
    if isinstance(kept, StoredTensor):
        return kept.rows(places)
    return kept if places is None else kept[places.to(kept.device)]


def in_memory(state: Mapping[str, Kept]) -> State:
    """Return a state with all of its tensors in memory."""
    return {name: rows_of_kept(kept, None) for name, kept in state.items()}


def read_shards(paths: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return what files of `write_shard` hold together, by name.

    What is not shared out is read from the first file that has it.

    Raises:
        OSError, SafetensorError, ValueError, KeyError: if they are no such files, or do not go
            together.
    """
    likes: dict[str, Tensor] = {}
    files: dict[str, list[Path]] = {}
    places: dict[str, list[Tensor]] = {}
    counts: dict[str, int | None] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names, about = list(file.keys()), file.metadata()
            rows: Mapping[str, Any] = {} if about is None else read_about(about)["rows"]
            for name in names:
                if name.startswith(_PLACES):
                    continue
                if name in rows:
                    places.setdefault(name, [])
                    places[name].append(_tensor(file.get_tensor(f"{_PLACES}{rows[name]}")))
                elif name in files:
                    continue
                shape = file.get_slice(name).get_shape()
                counts.setdefault(name, shape[0] if shape else None)
                likes[name] = file.get_slice(name)[:0] if shape else file.get_tensor(name)
                files.setdefault(name, []).append(path)
    for name, parts in places.items():
        together = torch.cat(parts)
        if len(files[name]) != len(parts) or not _are_all(together):
            raise ValueError(f"rows of {name} are missing")
    return {
        name: StoredTensor(name, likes[name], own, places.get(name, counts[name]))
        for name, own in files.items()
    }


def _are_all(places: Tensor) -> bool:
    return torch.equal(places.sort().values, torch.arange(len(places)))


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"no tensor, but {type(value).__name__}")
    return value
