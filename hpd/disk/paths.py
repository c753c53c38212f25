"""Paths that the system could take, whether anything is there or not."""

from __future__ import annotations

import os
from pathlib import Path

from hpd.errors import ConfigError

# of Linux, and well below the depth of calls of Python
_LONGEST_PATH, _DEEPEST_PATH = 4095, 200


def path_of(text: str | Path) -> Path | None:
    """Return a path if something could be there, None for what no path can be.

    >>> path_of("x" * 5000), path_of("a")
    (None, PosixPath('a'))
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    # a zero, too many characters, nobody's home, a link that leads to itself
    except (ValueError, OSError, RuntimeError):
        return None
    return path


def check_path(path: str | Path, problem: str) -> None:
    """Check that the system could take a path, whether anything is there or not.

    Raises:
        ConfigError: if it holds a zero, is too long, leads in a circle or to nobody's home.
    """
    text = str(path)
    if "\0" in text:
        raise ConfigError(problem, got=repr(text), expected="text without zeros")
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise ConfigError(problem, got=ascii(text), expected="what file names can hold") from None
    # making the folders on the way to a file recurses
    if size > _LONGEST_PATH or len(Path(text).parts) > _DEEPEST_PATH:
        raise ConfigError(
            problem, got=f"a path of {len(text)} characters, {len(Path(text).parts)} folders deep",
            expected=f"at most {_LONGEST_PATH} bytes and {_DEEPEST_PATH} folders",
        )  # fmt: skip
    try:
        Path(text).expanduser().resolve()
    # no such user, or a link that leads to itself
    except (OSError, RuntimeError) as error:
        raise ConfigError(problem, got=repr(text), fix=f"{error}.") from None
