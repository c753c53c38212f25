"""A pickle machine that builds a graph of inert nodes instead of objects.

Follows the opcodes documented in Python's own `pickletools`. Every limit is there because a
length, an index or a count in a pickle is chosen by whoever wrote it.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Collection
from typing import Any

from generators.checkpoints.pickles.nodes import (
    Blob,
    Call,
    Global,
    Items,
    Pairs,
    PersistentId,
    describe,
)
from generators.checkpoints.pickles.source import ByteSource
from hpd.errors import GeneratorError

MAX_OPCODES = 2_000_000
MAX_TEXT_CHARACTERS = 128 * 2**20

_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes}
_BLOB_LENGTH_BYTES = {"BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
_LITERALS = (
    "BININT BININT1 BININT2 INT LONG LONG1 LONG4 BINFLOAT FLOAT SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8 SHORT_BINUNICODE BINUNICODE BINUNICODE8 UNICODE STRING BINSTRING SHORT_BINSTRING"
).split()
_NAMED = "GLOBAL", "INST"

READABLE = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 "
    "BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 SHORT_BINUNICODE BINUNICODE "
    "BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT "
    "SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX BUILD".split()
)
"""What Python's picklers write at protocols 2 to 5, without external objects and extensions."""


def _quietly(reader: Callable[[Any], Any], source: ByteSource) -> Any:
    """Read a text: Python keeps escapes in it that it does not know, and warns of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reader(source)


class Machine:
    """Run one pickle and keep its graph.

    Args:
        source: positioned at the start of the pickle; afterwards just behind its end.
        allowed: names of the opcodes to accept, or None for all.
        on_global: told of every name as soon as it is named; may raise.
        on_call: told of every call that an unpickler would make.
        on_persistent: told of every object that the writer kept outside the pickle.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        allowed: Collection[str] | None = None,
        on_global: Callable[[Global], None] | None = None,
        on_call: Callable[[Call], None] | None = None,
        on_persistent: Callable[[PersistentId], None] | None = None,
    ) -> None:
        self._source, self._allowed = source, allowed
        self._on_global, self._on_call = on_global, on_call
        self._on_persistent = on_persistent
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._characters = 0
        self.protocol: int | None = None
        self.opcodes = 0

    def run(self) -> object:
        """Return the node that the pickle stands for.

        Raises:
            GeneratorError: if the pickle is damaged, too large, or uses a refused opcode.
        """
        while True:
            position = self._source.position
            op = _OPCODES.get(self._source.read(1))
            if op is None:
                raise GeneratorError("not a pickle, or a damaged one", got=f"byte {position}")
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise GeneratorError("too many opcodes", expected=f"at most {MAX_OPCODES}")
            if self._allowed is not None and op.name not in self._allowed:
                raise GeneratorError(
                    f"the opcode {op.name} is refused",
                    got=f"{_REASONS.get(op.name, 'one')} at byte {position}",
                    expected="what official checkpoints use",
                )
            try:
                argument = self._argument(op)
                if op.name == "STOP":
                    return self._pop()
                _HANDLERS[op.name](self, argument)
            # an empty stack, a name that is no text, a number that is none
            except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
                reason = f"{op.name} at byte {position}: {type(error).__name__}"
                raise GeneratorError("the pickle is damaged", got=reason) from None

    def _argument(self, op: pickletools.OpcodeInfo) -> Any:
        if op.name in _BLOB_LENGTH_BYTES:
            size = int.from_bytes(self._source.read(_BLOB_LENGTH_BYTES[op.name]), "little")
            return Blob(self._source.skip(size), size)
        if op.name in _NAMED:
            return Global(self._line(), self._line())
        if op.name == "PERSID":
            return self._line()
        if op.arg is None:
            return None
        reader: Callable[[Any], Any] = op.arg.reader
        argument = _quietly(reader, self._source) if op.name == "STRING" else reader(self._source)
        if isinstance(argument, str):
            self._characters += len(argument)
            if self._characters > MAX_TEXT_CHARACTERS:
                raise GeneratorError("too much text", expected=f"at most {MAX_TEXT_CHARACTERS}")
        return argument

    def _line(self) -> str:
        line = self._source.readline()
        if not line.endswith(b"\n"):
            raise ValueError("no end of line")
        return line[:-1].decode()

    def _push(self, node: object) -> None:
        self._stack.append(node)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_mark(self) -> list[object]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _name(self, node: Global) -> None:
        if self._on_global is not None:
            self._on_global(node)
        self._push(node)

    def _call(self, function: object, arguments: object) -> None:
        node = Call(function, arguments)
        if self._on_call is not None:
            self._on_call(node)
        self._push(node)

    def _persistent(self, value: object) -> None:
        node = PersistentId(value)
        if self._on_persistent is not None:
            self._on_persistent(node)
        self._push(node)

    def _protocol(self, version: int) -> None:
        self.protocol = version

    def _mark(self, _: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_to_mark(self, _: object) -> None:
        self._pop_mark()

    def _discard(self, _: object) -> None:
        # as in pickle itself: with nothing above the mark, POP takes the mark
        if self._stack:
            self._pop()
        else:
            self._pop_mark()

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise IndexError("stack")
        self._stack[-count:] = [items]

    def _extend(self, values: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Items | Call):
            target.items.extend(values)
        else:
            raise GeneratorError(f"the pickle appends to {describe(target)}")

    def _set(self, values: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, Pairs | Call):
            raise GeneratorError(f"the pickle sets items of {describe(target)}")
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))

    def _build(self, _: object) -> None:
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, Call):
            raise GeneratorError(f"the pickle sets the state of {describe(target)}")
        target.state = state

    def _stack_global(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("name")
        self._name(Global(module, name))

    def _reduce(self, _: object) -> None:
        arguments, function = self._pop(), self._pop()
        self._call(function, arguments)

    def _new_with_keywords(self, _: object) -> None:
        keywords, arguments, function = self._pop(), self._pop(), self._pop()
        # no call in the table has keywords: a list is never taken for arguments
        self._call(function, [arguments, keywords])

    def _instance(self, function: Global) -> None:
        arguments = tuple(self._pop_mark())
        self._name(function)
        self._call(self._pop(), arguments)

    def _object(self, _: object) -> None:
        function, *arguments = self._pop_mark()
        self._call(function, tuple(arguments))

    def _extension(self, code: int) -> None:
        self._name(Global("copyreg", f"extension_{code}"))

    def _memoise(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]


_REASONS = {
    "PERSID": "an object outside the pickle (persistent_load)",
    "BINPERSID": "an object outside the pickle (persistent_load)",
    "EXT1": "a function of the extension registry (copyreg)",
    "EXT2": "a function of the extension registry (copyreg)",
    "EXT4": "a function of the extension registry (copyreg)",
    "INST": "an instance written at protocol 0",
    "OBJ": "an instance written at protocol 1",
}


def _pair_list(pairs: list[object]) -> Pairs:
    return Pairs(list(zip(pairs[::2], pairs[1::2], strict=True)))


_Handler = Callable[[Machine, Any], None]
_HANDLERS: dict[str, _Handler] = {
    "PROTO": Machine._protocol,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m._push(None),
    "NEWTRUE": lambda m, _: m._push(True),
    "NEWFALSE": lambda m, _: m._push(False),
    "EMPTY_TUPLE": lambda m, _: m._push(()),
    "EMPTY_LIST": lambda m, _: m._push([]),
    "EMPTY_DICT": lambda m, _: m._push(Pairs()),
    "EMPTY_SET": lambda m, _: m._push(Items()),
    "MARK": Machine._mark,
    "POP": Machine._discard,
    "POP_MARK": Machine._pop_to_mark,
    "DUP": lambda m, _: m._push(m._stack[-1]),
    "TUPLE": lambda m, _: m._push(tuple(m._pop_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "LIST": lambda m, _: m._push(m._pop_mark()),
    "DICT": lambda m, _: m._push(_pair_list(m._pop_mark())),
    "FROZENSET": lambda m, _: m._push(Items(m._pop_mark())),
    "APPEND": lambda m, _: m._extend([m._pop()]),
    "APPENDS": lambda m, _: m._extend(m._pop_mark()),
    "ADDITEMS": lambda m, _: m._extend(m._pop_mark()),
    "SETITEM": lambda m, _: m._set([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set(m._pop_mark()),
    "MEMOIZE": Machine._memoise,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m._push(m._memo[i])),
    **dict.fromkeys(_LITERALS, Machine._push),
    "GLOBAL": Machine._name,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._new_with_keywords,
    "BUILD": Machine._build,
    "INST": Machine._instance,
    "OBJ": Machine._object,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Machine._extension),
    "PERSID": Machine._persistent,
    "BINPERSID": lambda m, _: m._persistent(m._pop()),
    "NEXT_BUFFER": lambda m, _: m._push(None),
    "READONLY_BUFFER": lambda m, _: None,
}
