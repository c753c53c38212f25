"""Everything in a checkpoint that may be part of a generator: its tensors by name, unread.

Whatever the format, a checkpoint is a tree of named tensors. Only those that are asked for are
read, so optimisers and discriminators beside a generator cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from generators.checkpoints.pickles.kinds import AGAIN, kind_of
from generators.checkpoints.pickles.machine import READABLE, Machine
from generators.checkpoints.pickles.nodes import Call, Global, PersistentId, shown
from generators.checkpoints.pickles.reader import (
    MAX_FILE_BYTES,
    PERSISTENT,
    NetworkReader,
    check_name,
)
from generators.checkpoints.pickles.records import ModuleRecord
from generators.checkpoints.pickles.source import ByteSource, open_source
from generators.checkpoints.pickles.tensors import is_tensor, storage_facts
from generators.checkpoints.pickles.zips import TorchZip
from hpd.errors import GeneratorError

# each limits what a small file can make of itself by naming one thing many times
_MAX_PLACES, _MAX_DEPTH, _MAX_ITEMS = 100_000, 16, 256
_MAX_NAME_CHARACTERS, _MAX_NAMES_CHARACTERS = 256, 32 * 2**20
_NAMELESS = ("_parameters", "_buffers", "_modules")
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds, by dotted names such as ``g_ema.conv1.conv.weight``.

    Args:
        tensors: reads a tensor when it is asked for; as stored, on the CPU.
        modules: reads an official module with its options when it is called.
        parts: the submodules of each of `modules`; empty for one that is damaged.
        numbers: plain numbers beside the tensors.
    """

    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Callable[[], ModuleRecord]] = field(default_factory=dict)
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def open_contents(path: str | Path) -> Iterator[Contents]:
    """Open a checkpoint of any format; its tensors can be read until it is closed.

    Args:
        path: a pickle, a torch file (zip or the older format), or safetensors.

    Raises:
        GeneratorError: if it is none of these, saying what it is; if it is damaged; or if it
            names something that no checkpoint has a use for.
    """
    with open_source(path, MAX_FILE_BYTES) as source:
        kind = kind_of(source)
        if kind == "safetensors":
            with _safetensors(path) as contents:
                yield contents
        elif kind == "zip":
            yield _zip(source)
        elif kind == "torch legacy":
            yield _legacy(source)
        else:
            yield _contents(NetworkReader(source), _machine(source).run())


class _Lazy(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for."""

    def __init__(self, read: Mapping[str, Callable[[], Tensor]]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        return self._read[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


@contextmanager
def _safetensors(path: str | Path) -> Iterator[Contents]:
    try:
        opened = safe_open(Path(path).expanduser(), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise GeneratorError(
            "the safetensors file is truncated or damaged", got=shown(str(error)), fix=AGAIN
        ) from None
    with opened as file:

        def read(name: str) -> Tensor:
            try:
                value: Tensor = file.get_tensor(name)
            # numbers of a type that this version of torch lacks
            except (SafetensorError, AttributeError, KeyError, ValueError, TypeError) as error:
                raise GeneratorError(f"cannot read {shown(name)}", got=shown(str(error))) from None
            return value

        yield Contents(_Lazy({name: partial(read, name) for name in list(file.keys())}))


def _machine(
    source: ByteSource, *more: str, on_persistent: Callable[[PersistentId], None] | None = None
) -> Machine:
    allowed = READABLE | set(more)
    return Machine(source, allowed=allowed, on_global=check_name, on_persistent=on_persistent)


def _zip(source: ByteSource) -> Contents:
    archive = TorchZip(source)
    pickle = archive.pickle()
    root = _machine(pickle, "BINPERSID").run()
    return _contents(NetworkReader(pickle, archive.storage, source.size), root)


def _legacy(source: ByteSource) -> Contents:
    """Open torch's older format: five pickles, then the storages one behind the other."""
    sizes: dict[str, int] = {}

    def see(node: PersistentId) -> None:
        # whole modules name their classes so, with the source text
        if isinstance(node.value, tuple) and node.value[:1] == ("module",):
            return
        dtype, key, count = storage_facts(node)
        sizes[key] = count * dtype.itemsize

    magic, version, _ = (_machine(source).run() for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        raise GeneratorError("not in torch's older format, though it begins so")
    root = _machine(source, "BINPERSID", on_persistent=see).run()
    keys = _machine(source).run()
    places: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else [None]:
        if not isinstance(key, str) or key not in sizes or key in places:
            raise GeneratorError("the file lists other storages than its tensors have")
        # the number of values, again
        source.skip(8)
        places[key] = source.skip(sizes[key])

    def storage(key: str, size: int) -> bytearray:
        if key not in places or sizes[key] != size:
            raise GeneratorError(f"the storage {shown(key)!r} is damaged or missing")
        return bytearray(source.read_at(places[key], size))

    return _contents(NetworkReader(source, storage), root)


def _contents(reader: NetworkReader, root: object) -> Contents:
    tensors: dict[str, Callable[[], Tensor]] = {}
    modules: dict[str, Callable[[], ModuleRecord]] = {}
    parts: dict[str, frozenset[str]] = {}
    numbers: dict[str, float] = {}
    for name, node in _places(reader, root):
        if is_tensor(node):
            tensors[name] = partial(reader.tensor, node)
        elif _is_official(node):
            modules[name] = partial(reader.module, node)
            parts[name] = reader.parts(node)
        elif type(node) in (int, float):
            numbers[name] = node  # type: ignore[assignment]
    return Contents(_Lazy(tensors), modules, parts, numbers)


def _is_official(node: object) -> bool:
    function = node.function if isinstance(node, Call) else None
    return isinstance(function, Global) and f"{function.module}.{function.name}" == PERSISTENT


def _places(reader: NetworkReader, root: object) -> Iterator[tuple[str, object]]:
    """Walk dicts, lists and modules from the top; yield dotted names, and what stands there."""
    waiting: list[tuple[str, object, int]] = [("", root, 0)]
    places = characters = 0
    while waiting:
        name, node, depth = waiting.pop()
        yield name, node
        if depth == _MAX_DEPTH or is_tensor(node) or _is_official(node):
            continue
        found = []
        for key, value in _below(reader, node):
            places, characters = places + 1, characters + len(name) + len(key)
            if places > _MAX_PLACES or characters > _MAX_NAMES_CHARACTERS:
                raise GeneratorError(
                    "too many values to look through", expected=f"at most {_MAX_PLACES}",
                    fix="Save a file of the generator's tensors alone.",
                )  # fmt: skip
            if len(key) <= _MAX_NAME_CHARACTERS:
                path = f"{name}.{key}" if name and key else name or key
                found.append((path, value, depth + 1))
        waiting += reversed(found)


def _below(reader: NetworkReader, node: object) -> Iterator[tuple[str, object]]:
    """Yield what a container or a module holds; an empty name adds none to that of its holder."""
    pairs = _pairs(reader, node)
    if pairs is not None:
        yield from ((str(key), value) for key, value in pairs if isinstance(key, str | int))
    elif isinstance(node, list | tuple) and len(node) <= _MAX_ITEMS:
        yield from ((str(index), value) for index, value in enumerate(node))
    elif isinstance(node, Call) and (state := _pairs(reader, node.state)) is not None:
        for key, value in state:
            if isinstance(key, str) and (key in _NAMELESS or not key.startswith("_")):
                yield "" if key in _NAMELESS else key, value


def _pairs(reader: NetworkReader, node: object) -> list[tuple[object, object]] | None:
    try:
        return reader.pairs(node)
    # what is beside a generator may be broken or unknown
    except GeneratorError:
        return None
