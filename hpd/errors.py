"""Typed errors: each says what was got, what was expected and what to do about it.

The command line turns every `HpdError` into one line and exit code 2; anything else is a defect
and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath

LONGEST = 600
"""Characters of the longest message; longer ones lose the middle of their longest part."""

_LEAST = 60
_GAP = " ... "


class HpdError(Exception):
    """An error whose cause lies in what the user gave, not in the code.

    Args:
        problem: what went wrong, without a full stop.
        got: the offending value, if there is one.
        expected: what would have been accepted.
        fix: what to do, as a sentence.

    The message is one line of at most `LONGEST` printable characters, whatever the parts hold:
    names of files and what they say come from outside.
    """

    def __init__(
        self, problem: str, *, got: object = None, expected: object = None, fix: str = ""
    ) -> None:
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix
        super().__init__(_message(problem, got, expected, fix))


# a ValueError, so that pydantic says which option the error of a check belongs to
class ConfigError(HpdError, ValueError):
    """A configuration with an unknown key, a wrong type or an impossible combination.

    Args:
        problem: as in `HpdError`, like `got`, `expected` and `fix`.
        option: dotted name of the option, from the settings that were read; "" for no single one.
        because: dotted name of the option beside it on account of which it does nothing; "" if it
            is wrong for another reason.
    """

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str = "",
        option: str = "",
        because: str = "",
    ) -> None:
        super().__init__(problem, got=got, expected=expected, fix=fix)
        self.option, self.because = option, because


class DataError(HpdError):
    """A data set that is missing, broken or not what the run needs."""


class GeneratorError(HpdError):
    """A generator that cannot be found or read, or that does not fit the data."""


class ShapeError(HpdError):
    """A tensor of the wrong shape, dtype or range."""


class RunError(HpdError):
    """A run folder that is missing, occupied or incomplete."""


class HubError(HpdError):
    """A repository of a hub that is missing, refuses, is damaged or does not answer.

    Args:
        problem: as in `HpdError`, like `got`, `expected` and `fix`.
        missing: whether there is no such repository, for all that who asks may know.
    """

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str = "",
        missing: bool = False,
    ) -> None:
        super().__init__(problem, got=got, expected=expected, fix=fix)
        self.missing = missing


class NumericError(HpdError):
    """NaN or Inf where a finite number is needed."""


class CheckError(HpdError):
    """A component that does not do what is asked of its kind."""


class OutOfMemoryError(HpdError):
    """A run that needs more memory than there is."""


class DeviceError(HpdError):
    """A device that is asked for and not there."""


class ProcessError(HpdError):
    """Another one of several processes that failed or ended."""


class OpsError(HpdError):
    """Native operations that are asked for and cannot be built or loaded.

    Args:
        problem: as in `HpdError`, like `got`, `expected` and `fix`.
        lines: what the compiler said; the text of the error ends in them, each on its own.
    """

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str = "",
        lines: Iterable[str] = (),
    ) -> None:
        super().__init__(problem, got=got, expected=expected, fix=fix)
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.lines])


def one_line(text: object) -> str:
    r"""Return text as one line of printable characters; others are written as in Python.

    >>> print(one_line("a\n  b\x1b[31m"))
    a b\x1b[31m
    """
    try:
        line = " ".join(str(text).split())
    # a whole number of thousands of digits in it
    except ValueError:
        line = type(text).__name__
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line
    )


def shown(value: object) -> str:
    """Return a plain value as Python writes it, anything else by the name of its type."""
    if isinstance(value, str | int | float | bool | PurePath | list | tuple | dict | None):
        try:
            return repr(value)
        # a whole number of thousands of digits, or what lies in the list
        except Exception:
            return type(value).__name__
    return type(value).__name__


def _message(problem: object, got: object, expected: object, fix: object) -> str:
    """Return the parts as one message, the longest cut to one length that makes it short enough."""
    parts = ["" if part is None else one_line(part) for part in (problem, got, expected, fix)]
    for most in range(LONGEST, _LEAST, -1):
        parts = [cut(part, most) for part in parts]
        message = _joined(parts, got is not None, expected is not None)
        if len(message) <= LONGEST:
            break
    return message


def _joined(parts: list[str], has_got: bool, has_expected: bool) -> str:
    problem, got, expected, fix = parts
    details = ([f"got {got}"] if has_got else []) + (
        [f"expected {expected}"] if has_expected else []
    )
    message = problem + (": " + ", ".join(details) if details else "")
    return f"{message}. {fix}" if fix else message


def cut(text: str, most: int = LONGEST) -> str:
    """Return a text, or the start and the end of one that is longer than `most`."""
    if len(text) <= most:
        return text
    room = most - len(_GAP)
    return text[: room - room // 3] + _GAP + text[len(text) - room // 3 :]


def nearest(name: str, known: Iterable[str], *, listed_by: str = "") -> str:
    """Return a sentence that names the closest known name, or lists them all.

    Args:
        name: what was asked for.
        known: what there is.
        listed_by: command that lists them, where they are too many for a message.

    >>> nearest("digist", ["digits", "cifar10"])
    "Did you mean 'digits'?"
    >>> nearest("x", ["pixel", "gan"])
    'Known: gan, pixel.'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"`{listed_by}` lists them." if listed_by else f"Known: {', '.join(names)}."
