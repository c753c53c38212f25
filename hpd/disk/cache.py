"""The folder of what can be made again: libraries of operations, rows of pictures."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

# a folder that nobody can make, for what can then not be kept
_NOWHERE = Path(os.devnull) / "hpd"
_PRIVATE = 0o700


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of thing, in ``$HPD_CACHE`` or in the user's cache.

    A user without a home has a private folder among the temporary files. The folder need not be
    there, nor be one that can be made: what is kept there is then made anew each time.

    Args:
        name: of the kind: ``"ops"``, ``"rows"``.
    """
    own = os.environ.get("HPD_CACHE")
    # os.path, as pathlib fails where there is no home; then ~ is a name like any other
    root = Path(os.path.expanduser(own)) if own else _users_cache()  # noqa: PTH111
    return root.absolute() / name


def _users_cache() -> Path:
    """Return the folder where the system keeps what programs of this user can make again."""
    try:
        found = platformdirs.user_cache_path("hpd", appauthor=False)
    except RuntimeError:  # no home, to newer releases; to older ones it is ~
        return _temporary()
    if not found.is_absolute():
        # older releases take an XDG_CACHE_HOME that is relative, which is to be ignored
        found = Path(os.path.expanduser("~/.cache/hpd"))  # noqa: PTH111
    # to older releases the home of an empty HOME is the root of the whole system
    at_root = found == Path(os.path.abspath(os.sep), ".cache", "hpd")  # noqa: PTH100
    return found if found.is_absolute() and not at_root else _temporary()


def _temporary() -> Path:
    """Return a folder of this user alone among the temporary files, or one that cannot be made."""
    who = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        folder = Path(tempfile.gettempdir()) / f"hpd-{who}"
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return _NOWHERE
    # libraries are loaded from it: nobody else may have made it, or write to it
    safe = stat.S_ISDIR(about.st_mode) and about.st_uid == who and not about.st_mode & 0o077
    return folder if safe or os.name == "nt" else _NOWHERE
