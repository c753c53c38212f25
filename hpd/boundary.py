"""What stands around every public function: its arguments are what their annotations say."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as hints_of

import numpy as np
from torch import Tensor
from typing_extensions import get_protocol_members, is_protocol

from hpd.disk.paths import check_path
from hpd.errors import ConfigError, RunError, shown
from hpd.machine.memory import out_of_memory
from hpd.typing import LARGEST_INT

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def public(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a function that refuses what its annotations do not allow, and fails in one way.

    Numbers of numpy count as Python's. What the system refuses, such as a folder that may not be
    written to or a full disk, is a `RunError`, and memory that runs out an `OutOfMemoryError`;
    errors of hpd pass, and so do defects.

    Raises:
        TypeError: from the function, for arguments that it does not have, or lacks.
        ConfigError: from the function, naming the argument.
        RunError: from the function, for an `OSError`.
        OutOfMemoryError: from the function, if it needs more memory than there is.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            bound = signature.bind(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})
        except TypeError as error:
            raise TypeError(
                f"hpd.{function.__name__}: {error}. {_takes(signature, kwargs)}"
            ) from None
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints:
                kind = signature.parameters[name].kind
                many = kind is inspect.Parameter.VAR_POSITIONAL
                for one in value if many else [value]:
                    fix = f"Give {name} each by itself." if many else ""
                    _check(function.__name__, name, one, hints[name], fix)
        try:
            return function(*bound.args, **bound.kwargs)
        except OSError as error:
            about = error.filename if error.filename is not None else error
            raise RunError(
                f"hpd.{function.__name__}: {error.strerror or type(error).__name__}", got=about
            ) from error
        except (MemoryError, RuntimeError) as error:
            ran_out = out_of_memory(error, f"hpd.{function.__name__}: the memory ran out")
            if ran_out is None:
                raise
        raise ran_out

    return checked


def _takes(signature: inspect.Signature, given: Mapping[str, object]) -> str:
    """Return what a function takes, and how an option is written where options are text."""
    takes = f"It takes {', '.join(signature.parameters)}."
    stray = next((name for name in given if name not in signature.parameters), None)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if stray is None or inspect.Parameter.VAR_POSITIONAL not in kinds:
        return takes
    return f'{takes} Options are text: "{stray}={given[stray]}".'


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    kinds = inspect.Parameter.VAR_KEYWORD
    named = [n for n, p in inspect.signature(function).parameters.items() if p.kind is not kinds]
    hints = hints_of(function)
    return {name: hints[name] for name in named if name in hints}


def _plain(value: Any) -> Any:
    """Return numbers of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _check(function: str, name: str, value: Any, wanted: Any, fix: str) -> None:
    problem = f"{name} of hpd.{function} is not valid"
    if not _fits(value, wanted):
        if isinstance(value, str) and _is_sequence(wanted):
            fix = f"Give a list, [{value!r}]."
        raise ConfigError(problem, got=shown(value), expected=_named(wanted), fix=fix)
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and "\0" in text:
            raise ConfigError(problem, got=repr(text), expected="text without zeros")
        if isinstance(text, str | Path) and "Path" in str(wanted):
            check_path(text, problem)


def _named(wanted: Any) -> str:
    """Return an annotation in words."""
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(_named(part) for part in get_args(wanted))
    if get_origin(wanted) is Literal:
        return " or ".join(repr(value) for value in get_args(wanted))
    if wanted is types.NoneType:
        return "None"
    if _is_sequence(wanted):
        return f"a list of {_named(get_args(wanted)[0])}"
    return getattr(get_origin(wanted) or wanted, "__name__", str(wanted))


def _is_sequence(wanted: Any) -> bool:
    origin = get_origin(wanted)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _fits(value: Any, wanted: Any) -> bool:
    """Return whether a value is of a type, as far as types say."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INT
    if wanted is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (isinstance(value, int) or math.isfinite(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if _is_sequence(wanted):
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return several and all(_fits(one, parts[0]) for one in value)
    kind = origin or wanted
    # arrays have a check of their own, which takes more than tensors
    if kind in (Any, Tensor) or not isinstance(kind, type):
        return True
    if is_protocol(kind):
        return all(hasattr(value, name) for name in get_protocol_members(kind))
    return isinstance(value, kind)
