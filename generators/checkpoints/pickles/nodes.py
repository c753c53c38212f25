"""What a pickle says, as a graph of inert nodes.

A pickle is a program. Here it is read as a description: a name stays a name, and a call stays a
note that something would be called. Nothing is imported and nothing is called.

Numbers, strings, short bytes, None, tuples and lists stand for themselves. Nodes compare by
identity and have no `repr` of their contents: a file can nest them so deeply, or share them so
often, that walking them without a limit would never end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN_CHARACTERS = 200


def shown(text: str) -> str:
    """Return text from a file in a form that any terminal can print, cut to a readable length.

    >>> shown("a" + chr(27) + chr(0xD800))
    'a\\\\x1b\\\\ud800'
    """
    # also keeps control sequences of terminals and unpaired surrogates out of messages
    plain = text[:_SHOWN_CHARACTERS].encode("unicode_escape").decode("ascii")
    return plain + ("..." if len(text) > _SHOWN_CHARACTERS else "")


@dataclass(slots=True, eq=False, repr=False)
class Global:
    """A name that an ordinary unpickler would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}")


@dataclass(slots=True, eq=False, repr=False)
class Blob:
    """Bytes that stay in the file until they are asked for: where they are."""

    start: int
    size: int


@dataclass(slots=True, eq=False, repr=False)
class Pairs:
    """A dict. Keys are not hashed: hashing a deeply nested tuple can end the process."""

    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Items:
    """A set or frozenset."""

    items: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class PersistentId:
    """An object that the writer kept outside the pickle."""

    value: object


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """The result of a call that was not made, and what was then put into it.

    Args:
        function: what would be called: a `Global`, or another `Call`.
        arguments: positional arguments, a tuple in a sane file.
        state: what would be handed to ``__setstate__``; None if nothing was.
        pairs: what would be set as items, for subclasses of dict.
        items: what would be appended, for subclasses of list and set.
    """

    function: object
    arguments: object
    state: object = None
    pairs: list[tuple[object, object]] = field(default_factory=list)
    items: list[object] = field(default_factory=list)


def function_of(node: object) -> object:
    """Return what is at the bottom of a call of a call of ..., without recursion."""
    # a file may tie a knot of calls; no sane one is longer than a few
    for _ in range(100):
        if not isinstance(node, Call):
            break
        node = node.function
    return node


def describe(node: object) -> str:
    """Name a node in a few words, whatever it holds."""
    if isinstance(node, Global):
        return str(node)
    if isinstance(node, Call):
        bottom = function_of(node)
        return f"{bottom}(...)" if isinstance(bottom, Global) else "a call of no named function"
    if isinstance(node, str):
        return repr(shown(node))
    names = {
        Pairs: "a dict", Items: "a set", Blob: "bytes", PersistentId: "a persistent id",
    }  # fmt: skip
    return names.get(type(node), "None" if node is None else f"a value of {type(node).__name__}")
