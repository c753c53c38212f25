"""Generators of the user's own by name, made by functions that are registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from generators.base import Generator
from hpd.errors import ConfigError, GeneratorError, HpdError
from hpd.machine.memory import is_out_of_memory

MakeGenerator = Callable[[], Generator]
_BUNDLED = Path(__file__).parent / "zoo"


class OwnGenerators:
    """Names of generators, and the functions that make them.

    >>> makers = OwnGenerators()
    >>> @makers.register("mine")
    ... def mine(): ...
    >>> list(makers), "mine" in makers
    (['mine'], True)
    """

    def __init__(self) -> None:
        self._makers: dict[str, MakeGenerator] = {}

    def register(self, name: str) -> Callable[[MakeGenerator], MakeGenerator]:
        """Return a decorator that registers a function without arguments that makes a generator.

        Args:
            name: by which `source.generator` and commands find it; none of a bundled one.

        Raises:
            ConfigError: if the name is taken by another function, or is a path.
        """
        if not isinstance(name, str) or not name or set(name) & set("/\\.\0"):
            raise ConfigError(
                "a generator has no such name", got=repr(name), expected="text without dots and /"
            )
        if (_BUNDLED / name).is_dir():
            raise ConfigError(f"the generator {name!r} comes with hpd", fix="Choose another name.")

        def add(make: MakeGenerator) -> MakeGenerator:
            if not callable(make):
                got = type(make).__name__
                raise ConfigError(f"the generator {name!r} is made by a function", got=got)
            other = self._makers.get(name)
            if other is not None and _place(other) != _place(make):
                raise ConfigError(f"generator {name!r} is registered twice")
            self._makers[name] = make
            return make

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._makers))

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def maker(self, name: str) -> MakeGenerator:
        """Return the function behind a name that there is."""
        return self._makers[name]

    def make(self, name: str) -> Generator:
        """Make the generator of a name that there is.

        Raises:
            GeneratorError: if the function fails, or gives something else.
        """
        try:
            made = self._makers[name]()
        except HpdError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise GeneratorError(
                f"the function that makes the generator {name!r} fails",
                got=f"{type(error).__name__}: {error}",
            ) from error
        if not isinstance(made, Generator):
            raise GeneratorError(
                f"the function that makes the generator {name!r} gives no generator",
                got=type(made).__name__,
                expected="such as generators.adapter.LayeredGenerator",
            )
        return made.requires_grad_(False).eval()


def _place(make: MakeGenerator) -> tuple[str, str]:
    """Return where a function is defined: a cell of a notebook may be run again."""
    return make.__module__, getattr(make, "__qualname__", "")


GENERATORS = OwnGenerators()
