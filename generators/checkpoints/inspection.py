"""List what is inside a checkpoint without unpickling it."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from generators.checkpoints.pickles.kinds import ZIP_START, kind_of
from generators.checkpoints.pickles.machine import Machine
from generators.checkpoints.pickles.nodes import Blob, Call, Global, Pairs, shown
from generators.checkpoints.pickles.plain import PLAIN_NAMES
from generators.checkpoints.pickles.reader import (
    KNOWN_NAMES,
    MAX_FILE_BYTES,
    PERSISTENT,
    is_hostile,
    is_legacy_tensorflow,
)
from generators.checkpoints.pickles.source import ByteSource, open_source
from generators.checkpoints.pickles.tensors import LOAD_STORAGE, STORAGE_TYPES, TENSOR_NAMES
from generators.checkpoints.pickles.zips import TorchZip
from hpd.errors import GeneratorError

Status = Literal["known", "stub", "refused"]
# torch's older format: magic number, version, system, object, keys
_PICKLES_IN_A_STORAGE = 5
_TORCH_NAMES = frozenset(STORAGE_TYPES) | TENSOR_NAMES | PLAIN_NAMES


@dataclass(frozen=True)
class GlobalUse:
    """A name that a file mentions.

    Args:
        name: module and name, as an unpickler would import it.
        named: how often it is named by an opcode; repeats by way of the memo do not count.
        calls: how often an unpickler would call it.
        status: ``"known"``: in the table of names that are understood; ``"stub"``: inert,
            refused only if a wanted network needs it; ``"refused"``: its presence alone makes
            `read_checkpoint` refuse the file.
        nested: whether it stands in a pickle inside the pickle.
    """

    name: str
    named: int
    calls: int
    status: Status
    nested: bool


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds.

    Args:
        path: the file.
        total_bytes: its size.
        format: a guess: ``"official pickle"``, ``"dill pickle"``, ``"legacy TensorFlow pickle"``,
            ``"torch zip"``, ``"torch legacy"``, ``"safetensors"``, ``"pickle"`` or ``"unknown"``.
        protocol: highest pickle protocol stated by the outer pickle, if any.
        opcodes: number of opcodes of the outer pickle that were read.
        keys: the names at the top, such as ``G_ema``.
        globals: every name, refused ones first.
        sources: size in bytes of each distinct embedded source text, by the classes it is for.
        problem: where and why reading stopped, or None if all was read.
    """

    path: Path
    total_bytes: int
    format: str
    protocol: int | None
    opcodes: int
    keys: tuple[str, ...]
    globals: tuple[GlobalUse, ...]
    sources: dict[str, int]
    problem: str | None

    @property
    def refused(self) -> tuple[str, ...]:
        """The names for which `read_checkpoint` refuses the file at once."""
        return tuple(dict.fromkeys(g.name for g in self.globals if g.status == "refused"))


def inspect_checkpoint(path: str | Path) -> Inspection:
    """List the names, source texts and sizes in a checkpoint; nothing is imported or called.

    Names are followed through the memo and through pickles nested in
    ``torch.storage._load_from_bytes``; of zip files the inner ``data.pkl`` is read. A damaged
    file gives what was found before the damage, and `Inspection.problem`.

    Args:
        path: a checkpoint of any format.

    Raises:
        GeneratorError: if the file cannot be opened.
    """
    path = Path(path)
    with open_source(path, MAX_FILE_BYTES) as source:
        survey = _Survey()
        try:
            survey.read(source)
        except GeneratorError as error:
            survey.problem = str(error)
        # limits make these unlikely, but a survey must not fail on what it surveys
        except (MemoryError, RecursionError) as error:
            survey.problem = type(error).__name__
        return survey.result(path, source.size)


@dataclass
class _Survey:
    """Tallies of a walk over one file."""

    named: Counter[tuple[str, bool]] = field(default_factory=Counter)
    calls: Counter[tuple[str, bool]] = field(default_factory=Counter)
    legacy_tensorflow: bool = False
    hostile: set[str] = field(default_factory=set)
    sources: dict[str, set[str]] = field(default_factory=dict)
    blobs: dict[int, Blob | bytes] = field(default_factory=dict)
    container: str = ""
    protocol: int | None = None
    opcodes: int = 0
    keys: tuple[str, ...] = ()
    problem: str | None = None

    def read(self, source: ByteSource) -> None:
        """Walk the outer file, then every pickle nested in it."""
        kind = kind_of(source)
        self.container = "torch zip" if kind == "zip" else kind
        if kind == "zip":
            self._zip(source, nested=False)
        elif kind == "torch legacy":
            self._sequence(source, nested=False)
        elif kind == "pickle":
            self._top_level(source)
        else:
            self._names(source)
        for blob in self.blobs.values():
            self._nested(source, blob)

    def _names(self, source: ByteSource) -> None:
        """List the tensors of safetensors, whose header is JSON."""
        header = source.read_at(8, int.from_bytes(source.read_at(0, 8), "little"))
        try:
            names = [name for name in json.loads(header) if name != "__metadata__"]
        except (ValueError, RecursionError):
            raise GeneratorError("the header of the safetensors file is damaged") from None
        self.keys = tuple(dict.fromkeys(shown(name.partition(".")[0]) for name in names))

    def _top_level(self, source: ByteSource) -> None:
        machine = self._machine(source, nested=False)
        try:
            root = machine.run()
        except GeneratorError as error:
            # nested pickles seen so far still get their turn
            self.problem = str(error)
            root = None
        self.protocol, self.opcodes = machine.protocol, self.opcodes + machine.opcodes
        if isinstance(root, Pairs):
            self.keys = tuple(shown(key) for key, _ in root.pairs if isinstance(key, str))

    def _sequence(self, source: ByteSource, *, nested: bool) -> None:
        """Walk the pickles at the start of torch's older format."""
        for _ in range(_PICKLES_IN_A_STORAGE):
            machine = self._machine(source, nested=nested)
            machine.run()
            if not nested:
                self.protocol, self.opcodes = machine.protocol, self.opcodes + machine.opcodes

    def _zip(self, source: ByteSource, *, nested: bool) -> None:
        pickle = TorchZip(source).pickle()
        if nested:
            self._machine(pickle, nested=True).run()
        else:
            self._top_level(pickle)

    def _nested(self, source: ByteSource, blob: Blob | bytes) -> None:
        if isinstance(blob, Blob):
            window = source.window(blob.start, blob.size)
        else:
            window = ByteSource(io.BytesIO(blob), 0, len(blob))
        start = window.read_at(window.start, min(4, window.size))
        window.read_at(window.start, 0)
        try:
            if start == ZIP_START:
                self._zip(window, nested=True)
            else:
                self._sequence(window, nested=True)
        except GeneratorError as error:
            self.problem = self.problem or f"a nested storage: {error}"

    def _machine(self, source: ByteSource, *, nested: bool) -> Machine:
        def on_global(name: Global) -> None:
            self.named[str(name), nested] += 1
            self.legacy_tensorflow |= is_legacy_tensorflow(name)
            if is_hostile(name):
                self.hostile.add(str(name))

        def on_call(call: Call) -> None:
            if isinstance(call.function, Global):
                self.calls[str(call.function), nested] += 1
                if isinstance(call.arguments, tuple) and len(call.arguments) == 1:
                    self._look_into(str(call.function), call.arguments[0])

        return Machine(source, on_global=on_global, on_call=on_call)

    def _look_into(self, name: str, argument: object) -> None:
        if name == LOAD_STORAGE and isinstance(argument, Blob | bytes):
            # one blob may be handed over many times
            key = argument.start if isinstance(argument, Blob) else -1 - id(argument)
            self.blobs[key] = argument
        if name == PERSISTENT and isinstance(argument, Pairs):
            meta = [(k, v) for k, v in argument.pairs if isinstance(k, str)]
            found = {k: v for k, v in meta if isinstance(v, str)}
            if "module_src" in found:
                classes = self.sources.setdefault(found["module_src"], set())
                classes.add(shown(found.get("class_name", "?")))

    def _format(self) -> str:
        names = {name for name, nested in self.named if not nested}
        if self.container != "pickle":
            return self.container or "unknown"
        if self.legacy_tensorflow:
            return "legacy TensorFlow pickle"
        if PERSISTENT not in names:
            return "pickle"
        return "dill pickle" if any(n.startswith("dill.") for n in names) else "official pickle"

    def _status(self, name: str, nested: bool) -> Status:
        if name in self.hostile:
            return "refused"
        known = _TORCH_NAMES if nested or self.container != "pickle" else KNOWN_NAMES
        return "known" if name in known else "stub"

    def result(self, path: Path, total_bytes: int) -> Inspection:
        """Return the tallies in their final form."""
        uses = [
            GlobalUse(name, count, self.calls[name, nested], self._status(name, nested), nested)
            for (name, nested), count in self.named.items()
        ]
        order = {"refused": 0, "stub": 1, "known": 2}
        sizes = {
            ", ".join(sorted(classes)): len(text.encode("utf-8", "surrogatepass"))
            for text, classes in self.sources.items()
        }
        return Inspection(
            path=path, total_bytes=total_bytes, format=self._format(), protocol=self.protocol,
            opcodes=self.opcodes, keys=self.keys, sources=sizes, problem=self.problem,
            globals=tuple(sorted(uses, key=lambda u: (order[u.status], u.nested, u.name))),
        )  # fmt: skip
