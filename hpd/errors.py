"""Typed errors: each says what was got, what was expected and what to do about it.

The command line turns every `HpdError` into one line and exit code 2; anything else is a defect
and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HpdError(Exception):
    """An error whose cause lies in what the user gave, not in the code.

    Args:
        problem: what went wrong, without a full stop.
        got: the offending value, if there is one.
        expected: what would have been accepted.
        fix: what to do, as a sentence.
    """

    def __init__(
        self, problem: str, *, got: object = None, expected: object = None, fix: str = ""
    ) -> None:
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix
        details = []
        if got is not None:
            details.append(f"got {got}")
        if expected is not None:
            details.append(f"expected {expected}")
        message = problem + (": " + ", ".join(details) if details else "")
        super().__init__(" ".join(f"{message}. {fix}".split()) if fix else message)


class ConfigError(HpdError):
    """A configuration with an unknown key, a wrong type or an impossible combination."""


class DataError(HpdError):
    """A data set that is missing, broken or not what the run needs."""


class GeneratorError(HpdError):
    """A generator that cannot be found or read, or that does not fit the data."""


class ShapeError(HpdError):
    """A tensor of the wrong shape, dtype or range."""


class RunError(HpdError):
    """A run folder that is missing, occupied or incomplete."""


class NumericError(HpdError):
    """NaN or Inf where a finite number is needed."""


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest known name, or lists them all.

    >>> nearest("digist", ["digits", "cifar10"])
    "Did you mean 'digits'?"
    >>> nearest("x", ["pixel", "gan"])
    'Known: gan, pixel.'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
