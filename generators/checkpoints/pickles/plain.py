"""From inert nodes to plain data: the short table of calls that are understood.

Each entry is a function of this project. Nothing is looked up by a name from the file except in
this table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from generators.checkpoints.pickles.nodes import (
    Blob,
    Call,
    Global,
    Items,
    Pairs,
    describe,
    function_of,
    shown,
)
from generators.checkpoints.pickles.source import ByteSource
from hpd.errors import GeneratorError

MAX_DEPTH = 48
MAX_VALUES = 200_000
_NUMERIC = re.compile(r"[<>=|]?[biuf][1248]")
_LOAD_TYPE = "dill._dill._load_type"
# dill names types by these words; only containers are data
_DILL_CONTAINERS = {
    "dict": "dict", "DictType": "dict", "list": "list", "ListType": "list", "tuple": "tuple",
    "TupleType": "tuple", "set": "set", "SetType": "set", "frozenset": "frozenset",
    "FrozenSetType": "frozenset",
}  # fmt: skip


def refuse(node: object, what: str) -> GeneratorError:
    """Return the error for a node that stands where `what` is needed."""
    return GeneratorError(
        f"refused {describe(node)} in a checkpoint",
        expected=what,
        fix="Names outside the table of known ones are never imported or called.",
    )


def function_name(call: Call) -> str:
    """Return the dotted name of what a call calls.

    Raises:
        GeneratorError: if it calls no plain name, or a type that dill would make.
    """
    function = call.function
    if isinstance(function, Global):
        return f"{function.module}.{function.name}"
    if isinstance(function, Call):
        inner = function.function
        if isinstance(inner, Global) and f"{inner.module}.{inner.name}" == _LOAD_TYPE:
            return f"builtins.{_dill_container(function.arguments)}"
    raise refuse(function_of(function), "a call of a named function")


def _dill_container(arguments: object) -> str:
    name = arguments[0] if isinstance(arguments, tuple) and len(arguments) == 1 else None
    if not isinstance(name, str) or name not in _DILL_CONTAINERS:
        got = describe(name)
        raise GeneratorError(f"refused {_LOAD_TYPE} of {got}", expected="the name of a container")
    return _DILL_CONTAINERS[name]


class PlainReader:
    """Turn nodes into numbers, text, lists, tuples and dicts.

    Args:
        source: where blobs lie.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._values_left = MAX_VALUES

    def plain(self, node: object, depth: int = 0) -> Any:
        """Return plain data.

        Raises:
            GeneratorError: if anything else is below `node`, naming it; or if it is nested or
                repeated beyond reason.
        """
        self.count(1, depth)
        # bool is an int, and None is what it is
        if node is None or isinstance(node, int | float | str):
            return node
        if isinstance(node, tuple):
            return tuple(self.plain(item, depth + 1) for item in node)
        if isinstance(node, list):
            return [self.plain(item, depth + 1) for item in node]
        if isinstance(node, Pairs):
            return self._dict(node.pairs, depth)
        if isinstance(node, Items):
            return [self.plain(item, depth + 1) for item in node.items]
        if isinstance(node, Call):
            handler = PLAIN_CALLS.get(function_name(node))
            if handler is not None:
                return handler(self, node, depth)
        raise refuse(node, "plain data")

    def count(self, values: int, depth: int) -> None:
        """Take `values` from what may still be read.

        Raises:
            GeneratorError: if that was all, or `depth` is too large.
        """
        if depth > MAX_DEPTH:
            raise GeneratorError("nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        self._values_left -= values
        if self._values_left < 0:
            raise GeneratorError("too many values", expected=f"at most {MAX_VALUES}")

    def named(self, node: object, what: str) -> dict[str, object]:
        """Return a dict node as names and nodes, leaving the nodes as they are.

        Raises:
            GeneratorError: if it is no dict, or a key is no name.
        """
        pairs = self.pairs(node)
        if pairs is None:
            raise refuse(node, what)
        found: dict[str, object] = {}
        for key, value in pairs:
            self.count(1, 0)
            if not isinstance(key, str):
                raise GeneratorError(f"a key of {what} is no name", got=describe(key))
            found[key] = value
        return found

    def pairs(self, node: object) -> list[tuple[object, object]] | None:
        """Return the keys and values of a dict node as nodes; None if it is none."""
        if isinstance(node, Pairs):
            return node.pairs
        if isinstance(node, Call) and function_name(node) in _DICTS:
            return [*self._given_pairs(node), *node.pairs]
        return None

    def _given_pairs(self, call: Call) -> list[tuple[object, object]]:
        """Return the pairs in ``OrderedDict([[key, value], ...])``."""
        if call.arguments == ():
            return []
        argument = self.arguments(call, 1)[0]
        if isinstance(argument, Pairs):
            return argument.pairs
        pairs = []
        for item in argument if isinstance(argument, list) else [None]:
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise refuse(call, "pairs")
            pairs.append((item[0], item[1]))
        return pairs

    def _dict(self, pairs: list[tuple[object, object]], depth: int) -> dict[Any, Any]:
        found = {}
        for key, value in pairs:
            if not (key is None or isinstance(key, int | float | str)):
                raise GeneratorError("a key is neither text nor a number", got=describe(key))
            found[key] = self.plain(value, depth + 1)
        return found

    def arguments(self, call: Call, *counts: int) -> tuple[Any, ...]:
        """Return the arguments of a call, which must be as many as one of `counts`."""
        arguments = call.arguments
        if not isinstance(arguments, tuple) or len(arguments) not in counts:
            raise GeneratorError(f"{describe(call)} has other arguments than it should")
        return arguments

    def data(self, node: object) -> bytes:
        """Return bytes, wherever they lie.

        Raises:
            GeneratorError: if the node is something else.
        """
        if isinstance(node, bytes):
            return node
        if isinstance(node, Blob):
            return self._source.read_at(node.start, node.size)
        if isinstance(node, Call) and function_name(node) == "_codecs.encode":
            return self._encoded(node)
        if isinstance(node, Call) and function_name(node) in (
            "builtins.bytes",
            "__builtin__.bytes",
        ):
            self.arguments(node, 0)
            return b""
        raise refuse(node, "bytes")

    def _encoded(self, call: Call) -> bytes:
        """Read bytes as protocol 2 writes them: as text of the same code points."""
        text, encoding = self.arguments(call, 2)
        if not isinstance(text, str) or encoding != "latin1":
            raise refuse(call, "bytes")
        try:
            return text.encode("latin1")
        except UnicodeEncodeError:
            raise GeneratorError("bytes with values above 255") from None

    # ---- calls

    def _mapping(self, call: Call, depth: int) -> dict[Any, Any]:
        return self._dict([*self._given_pairs(call), *call.pairs], depth)

    def _sequence(self, call: Call, depth: int) -> list[Any]:
        given = self.arguments(call, 0, 1)
        inner = given[0] if given else []
        items = inner.items if isinstance(inner, Items) else inner
        if not isinstance(items, list | tuple):
            raise refuse(inner, "a list")
        return [self.plain(item, depth + 1) for item in [*items, *call.items]]

    def _tuple(self, call: Call, depth: int) -> tuple[Any, ...]:
        return tuple(self._sequence(call, depth))

    def _scalar(self, call: Call, depth: int) -> Any:
        dtype_node, data = self.arguments(call, 2)
        dtype = self.dtype(dtype_node)
        content = self.data(data)
        if len(content) != dtype.itemsize:
            raise GeneratorError("a numpy number of the wrong length", got=len(content))
        return np.frombuffer(content, dtype)[0].item()

    def _lists(self, call: Call, depth: int) -> Any:
        """Read an array as nested lists."""
        array = self.array(call, depth)
        self.count(array.size, depth + array.ndim)
        return array.tolist()

    def array(self, call: Call, depth: int = 0) -> np.ndarray[Any, Any]:
        """Return a numeric array, in the byte order of its writer, that nothing may write to.

        Raises:
            GeneratorError: if the call makes none, or one whose size does not fit its values.
        """
        return _ARRAYS[function_name(call)](self, call, depth)

    def _built(self, call: Call, depth: int) -> np.ndarray[Any, Any]:
        """Read an array made empty and then filled by BUILD."""
        return self._filled(call, call.state)

    def _dill_array(self, call: Call, depth: int) -> np.ndarray[Any, Any]:
        function, arguments, state, attributes = self.arguments(call, 4)
        if attributes is not None and self.plain(attributes, depth + 1):
            raise refuse(call, "a plain numpy array")
        inner = Call(function, arguments)
        if function_name(inner) not in _EMPTY_ARRAYS:
            raise refuse(inner, "a plain numpy array")
        return self._filled(inner, state)

    def _filled(self, call: Call, state: object) -> np.ndarray[Any, Any]:
        kind = self.arguments(call, 3)[0]
        if not isinstance(kind, Global) or f"{kind.module}.{kind.name}" != "numpy.ndarray":
            raise refuse(kind, "numpy.ndarray")
        if not isinstance(state, tuple) or len(state) != 5:
            raise refuse(call, "the state of a numpy array")
        _, shape, dtype, fortran, data = state
        return self._values(shape, self.dtype(dtype), data, "F" if fortran is True else "C")

    def _from_buffer(self, call: Call, depth: int) -> np.ndarray[Any, Any]:
        data, dtype, shape, order = self.arguments(call, 4)
        if order not in ("C", "F"):
            raise refuse(call, "an array in C or Fortran order")
        return self._values(shape, self.dtype(dtype), data, order)

    def _values(
        self, shape_node: object, dtype: np.dtype[Any], data: object, order: str
    ) -> np.ndarray[Any, Any]:
        shape = self.sizes(shape_node)
        content = self.data(data)
        if shape == (0,) and not content:
            return np.empty(0, dtype)
        # an array of no values could still be a great many empty lists
        if math.prod(shape) * dtype.itemsize != len(content) or not content:
            raise GeneratorError("a numpy array whose size does not fit its shape", got=shape)
        flat = np.frombuffer(content, dtype)
        return flat.reshape(shape, order="F" if order == "F" else "C")

    def sizes(self, node: object) -> tuple[int, ...]:
        """Return a tuple of at most 8 sizes, none negative.

        Raises:
            GeneratorError: if the node is something else.
        """
        sizes = self.plain(node)
        if not isinstance(sizes, tuple) or len(sizes) > 8:
            raise GeneratorError("a shape is no tuple of sizes", got=describe(node))
        for size in sizes:
            if type(size) is not int or not 0 <= size < 2**40:
                raise GeneratorError("a shape is no tuple of sizes", got=describe(size))
        return sizes

    def dtype(self, node: object) -> np.dtype[Any]:
        """Return a numeric numpy type.

        Raises:
            GeneratorError: for objects, structures, text and dates.
        """
        if not isinstance(node, Call) or function_name(node) != "numpy.dtype":
            raise refuse(node, "numpy.dtype")
        name = self.arguments(node, 1, 3)[0]
        if not isinstance(name, str) or not _NUMERIC.fullmatch(name):
            raise GeneratorError(
                "refused a numpy array that is not numeric",
                got=f"numpy.dtype of {describe(name)}",
                expected="booleans, integers or floats",
            )
        state = node.state
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        if order not in ("<", ">", "=", "|"):
            raise GeneratorError("a numpy type of unknown byte order", got=describe(order))
        try:
            return np.dtype(f"{order}{name.lstrip('<>=|')}")
        except TypeError:
            raise GeneratorError("unknown numpy type", got=shown(name)) from None


_DICTS = frozenset(
    ("collections.OrderedDict", "dnnlib.util.EasyDict", "builtins.dict", "__builtin__.dict")
)
_EMPTY_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_Handler = Callable[[PlainReader, Call, int], Any]
_ARRAYS: dict[str, Callable[[PlainReader, Call, int], np.ndarray[Any, Any]]] = {
    **dict.fromkeys(_EMPTY_ARRAYS, PlainReader._built),
    "numpy.core.numeric._frombuffer": PlainReader._from_buffer,
    "numpy._core.numeric._frombuffer": PlainReader._from_buffer,
    "dill._dill._create_array": PlainReader._dill_array,
}
ARRAY_NAMES = frozenset(_ARRAYS)
"""Every name that makes a numpy array."""
PLAIN_CALLS: dict[str, _Handler] = {
    **dict.fromkeys(_DICTS, PlainReader._mapping),
    **{
        f"{builtins}.{name}": handler
        for builtins in ("builtins", "__builtin__")
        for name, handler in (
            ("set", PlainReader._sequence),
            ("frozenset", PlainReader._sequence),
            ("list", PlainReader._sequence),
            ("tuple", PlainReader._tuple),
        )
    },
    # numpy 2 moved its inner modules; files of either version are about
    "numpy.core.multiarray.scalar": PlainReader._scalar,
    "numpy._core.multiarray.scalar": PlainReader._scalar,
    **dict.fromkeys(_ARRAYS, PlainReader._lists),
}
PLAIN_NAMES = frozenset(PLAIN_CALLS) | {
    "_codecs.encode", "builtins.bytes", "__builtin__.bytes", "numpy.dtype", "numpy.ndarray",
    _LOAD_TYPE,
}  # fmt: skip
"""Every name from a file that has a meaning as plain data."""
