"""Tensors of a checkpoint, from the calls that would rebuild them.

Their values lie outside of the pickle, or in a storage inside of it. Such a storage is a second
pickle in torch's format from before zip files: five small pickles (magic number, version, system,
storage, keys), then the length and the values. It goes through the same machine; the values are
copied as they are.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import torch
from torch import Tensor

from generators.checkpoints.pickles.machine import READABLE, Machine
from generators.checkpoints.pickles.nodes import Call, Global, PersistentId, describe
from generators.checkpoints.pickles.plain import ARRAY_NAMES, PlainReader, function_name, refuse
from generators.checkpoints.pickles.source import ByteSource
from hpd.errors import GeneratorError

LOAD_STORAGE = "torch.storage._load_from_bytes"
# the number of arguments of each; the first of a wrapper is what is wrapped
_TENSORS = {"torch._utils._rebuild_tensor": (4,), "torch._utils._rebuild_tensor_v2": (6, 7)}
_WRAPPERS = {
    "torch._utils._rebuild_parameter": (3,),
    "torch._utils._rebuild_parameter_with_state": (4,),
}
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_REBUILDERS = frozenset((*_TENSORS, *_WRAPPERS, _SUBCLASS))
TENSOR_NAMES = _REBUILDERS | {LOAD_STORAGE}
# a vector repeated without a copy is honest; more than this would not be
_MAX_REPEATED_VALUES = 2**20
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGE_TYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def read_storage(content: bytes) -> Tensor:
    """Return the values of a nested storage as a tensor of one dimension.

    Args:
        content: what ``torch.storage._load_from_bytes`` would be given.

    Raises:
        GeneratorError: if it is not exactly one storage of numbers in torch's older format.
    """
    if not content.startswith(b"\x80"):
        raise GeneratorError("a nested storage is not in torch's older format")
    source = ByteSource(io.BytesIO(content), 0, len(content))

    def only_storages(name: Global) -> None:
        if str(name) not in STORAGE_TYPES:
            raise refuse(name, "a storage of numbers")

    def next_node(*extra: str) -> object:
        return Machine(source, allowed=READABLE | set(extra), on_global=only_storages).run()

    if next_node() != _MAGIC or next_node() != _VERSION:
        raise GeneratorError("a nested storage is not in torch's older format")
    next_node()
    dtype, key, count = storage_facts(next_node("BINPERSID"))
    if next_node() != [key]:
        raise GeneratorError("a nested storage holds other keys than its own")
    stated = int.from_bytes(source.read(8), "little")
    start, itemsize = source.position, dtype.itemsize
    if stated != count or source.stop - start != count * itemsize:
        raise GeneratorError(
            "a nested storage is truncated or damaged",
            got=f"{source.stop - start} bytes for {stated} values",
            expected=f"{count} values of {itemsize} bytes",
        )
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(memoryview(content)[start:]), dtype=dtype)


def storage_facts(node: object) -> tuple[torch.dtype, str, int]:
    """Return dtype, key and number of values from the persistent id of a storage.

    Raises:
        GeneratorError: if it is none of a storage of numbers.
    """
    facts = node.value if isinstance(node, PersistentId) else None
    if not isinstance(facts, tuple) or len(facts) not in (5, 6) or facts[0] != "storage":
        raise GeneratorError("a nested storage does not describe itself", got=describe(node))
    _, kind, key, _, count, *view = facts
    if not isinstance(kind, Global) or not isinstance(key, str) or not _is_count(count):
        raise GeneratorError("a nested storage does not describe itself", got=describe(kind))
    if view not in ([], [None]):
        raise GeneratorError("a nested storage is a view of another")
    if str(kind) not in STORAGE_TYPES:
        raise refuse(kind, "a storage of numbers")
    return STORAGE_TYPES[str(kind)], key, count


Outside = Callable[[str, int], bytearray]
"""Gives the bytes of a storage outside of a pickle, by its key and their number."""


def is_tensor(node: object) -> bool:
    """Tell whether a node would be a tensor or a numpy array, by the name of what it calls."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return False
    return f"{node.function.module}.{node.function.name}" in _REBUILDERS | ARRAY_NAMES


class TensorReader(PlainReader):
    """Read tensors as well as plain data.

    Args:
        source: the pickle.
        outside: gives the bytes of a storage outside of it, by key and size; None for a pickle
            that keeps its storages inside.
        total_bytes: size of the file; None if the pickle is all of it.
    """

    def __init__(
        self, source: ByteSource, outside: Outside | None = None, total_bytes: int | None = None
    ) -> None:
        super().__init__(source)
        # in a sane file each storage is there once and each tensor lies within one
        self._bytes_left = 2 * (source.size if total_bytes is None else total_bytes)
        self._outside = outside
        self._storages: dict[int | tuple[torch.dtype, str], Tensor] = {}
        self._tensors: dict[int, Tensor] = {}

    def tensor(self, node: object, depth: int = 0) -> Tensor:
        """Return the tensor that a node would rebuild, contiguous, on the CPU.

        Raises:
            GeneratorError: naming what stands in its place, or saying how it is damaged.
        """
        # nodes of the graph live as long as it does, so no two of them have one identity
        if id(node) not in self._tensors:
            self._tensors[id(node)] = self._rebuilt(node, depth)
        return self._tensors[id(node)]

    def _rebuilt(self, node: object, depth: int) -> Tensor:
        self.count(1, depth)
        if not isinstance(node, Call):
            raise refuse(node, "a tensor")
        name = function_name(node)
        if name in _WRAPPERS:
            return self.tensor(self.arguments(node, *_WRAPPERS[name])[0], depth + 1)
        if name in _TENSORS:
            return self._strided(*self.arguments(node, *_TENSORS[name])[:4])
        if name == _SUBCLASS:
            function, _, arguments, _ = self.arguments(node, 4)
            return self._rebuilt(Call(function, arguments), depth + 1)
        if name in ARRAY_NAMES:
            return self._from_array(node)
        raise refuse(node, "a tensor")

    def _strided(self, storage: object, offset: object, size: object, stride: object) -> Tensor:
        values = self._storage(storage)
        sizes, strides = self.sizes(size), self.sizes(stride)
        if type(offset) is not int or offset < 0 or len(sizes) != len(strides):
            raise GeneratorError("a tensor of impossible shape", got=f"size {sizes}")
        count = math.prod(sizes)
        last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        # more values than the storage has would be one value many times over
        if count and (last >= len(values) or count > max(len(values), _MAX_REPEATED_VALUES)):
            raise GeneratorError(
                "a tensor reaches beyond its storage",
                got=f"size {sizes}, stride {strides}, offset {offset}",
                expected=f"within {len(values)} values",
            )
        if not count and sizes != (0,):
            raise GeneratorError("a tensor without values", got=f"size {sizes}")
        if not count:
            return torch.empty(0, dtype=values.dtype)
        self._spend(count * values.itemsize)
        return values.as_strided(sizes, strides, offset).contiguous()

    def _from_array(self, node: Call) -> Tensor:
        array = self.array(node)
        self._spend(2 * array.nbytes)
        # torch takes neither another byte order nor what nothing may write to
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))

    def _storage(self, node: object) -> Tensor:
        if self._outside is not None and isinstance(node, PersistentId):
            return self._kept_outside(node, self._outside)
        if not isinstance(node, Call) or function_name(node) != LOAD_STORAGE:
            raise refuse(node, LOAD_STORAGE)
        if id(node) not in self._storages:
            content = self.data(self.arguments(node, 1)[0])
            self._spend(len(content))
            self._storages[id(node)] = read_storage(content)
        return self._storages[id(node)]

    def _kept_outside(self, node: PersistentId, outside: Outside) -> Tensor:
        dtype, key, count = storage_facts(node)
        if (dtype, key) not in self._storages:
            size = count * dtype.itemsize
            self._spend(size)
            self._storages[dtype, key] = (
                torch.frombuffer(outside(key, size), dtype=dtype)
                if count
                else torch.empty(0, dtype=dtype)
            )
        return self._storages[dtype, key]

    def _spend(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise GeneratorError("the tensors declare more bytes than the file holds")
